"""The train job: fine-tune, evaluate, save; or say that it is already done."""

from trainer.errors import InputError
from trainer.run import Run
from trainer.run_folder import RunFolder


def run(run: Run) -> int:
    """Train as the config says, continuing where an earlier run of it stopped."""
    done = RunFolder(run.output_dir).completed(run.trainer)
    if done is not None:
        for callback in run.callbacks.values():
            callback.on_complete(run.output_dir, done)
        return 0
    build_trainer(run).fit()
    return 0


def build_trainer(run: Run) -> "Trainer":
    """The Trainer of a run: its rows loaded, its labels learnt, its model and data ready."""
    from trainer.data.tokens import default_cache_dir
    from trainer.jobs.parts import load_model, load_tokenizer
    from trainer.trainer import Trainer

    assert run.recipe is not None
    tokenizer = load_tokenizer(run)
    splits = run.dataset.load()
    if splits.train is None:
        raise InputError("dataset.train: nothing to train on; give dataset.train or dataset.path")
    recipe = run.recipe.learn(splits.train)
    return Trainer(
        model=load_model(run.model, recipe.head, run.seed),
        recipe=recipe,
        settings=run.trainer,
        tokenizer=tokenizer,
        train_dataset=splits.train,
        eval_dataset=splits.validation,
        metrics=run.metrics,
        callbacks=list(run.callbacks.values()),
        output_dir=run.output_dir,
        seed=run.seed,
        config=run.config,
        cache_dir=default_cache_dir(),
        model_path=run.model.path,
    )
