"""The serve job: answers HTTP requests with a saved model until it receives a signal."""

import gc
import logging
import os
from copy import deepcopy
from ipaddress import ip_address
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.runs.run import Run
from trainer.tasks.recipe import Recipe
from trainer.terminal.activity import done
from trainer.terminal.console import shown

if TYPE_CHECKING:
    from trainer.serving.app import Service

log = logging.getLogger("trainer")

KEY = "TEMPERING_API_KEY"
"""The environment variable with the API key that clients must send."""


def prepare(run: Run) -> bool:
    """Do nothing; the job runs in one process."""
    return True


def run(run: Run) -> int:
    """Answer requests until a signal arrives; then raise Interrupted with its exit code."""
    recipe = run.recipe
    if recipe is None:
        raise InputError(f"recipe: {run.model.path} names no task; give recipe=...")
    _refuse_input(run)
    _require_extra()
    key = os.environ.get(KEY) or None
    if key is None and not _is_loopback(run.serve.host):
        log.warning(
            "serve.host: other machines can reach %s, and %s is not set", run.serve.host, KEY
        )
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    from trainer.serving.app import application
    from trainer.serving.example_request import curl_line
    from trainer.serving.server import Server, listening_socket, url_of

    bound = listening_socket(run.serve)  # before loading the model, in case the port is taken
    with bound:
        service = service_of(run, recipe)
        gc.collect()
        gc.freeze()  # so that later garbage collections do not scan the objects that exist now

        def started() -> None:
            done()
            paths = sorted({each.path for each in service.router.routes})  # type: ignore[attr-defined]
            url, required = url_of(bound), KEY if key is not None else None
            print(shown(f"serving {service.name} at {url} ({', '.join(paths)})"))
            print(shown(f"try it: {curl_line(url, paths, service.name, recipe, required)}"))
            print("press Ctrl-C to stop", flush=True)

        server = Server(application(service, run.serve, key), run.serve, started)
        service.scheduler.start()
        try:
            end = server.run_until_signal(bound, service.figures)
        finally:
            service.scheduler.stop()
    raise end


def service_of(run: Run, recipe: Recipe) -> "Service":
    """The service for the model: the routes of its task, and the scheduler that runs the model."""
    name = run.serve.name or str(run.model.path)
    if recipe.head.task == "causal_lm":
        return _generation_service(run, name)
    if not recipe.text_columns or recipe.head.task == "seq2seq_lm":
        found = type(recipe).__name__
        raise InputError(f"recipe: {found} cannot be served; accepted: job=generate, job=evaluate")
    return _prediction_service(run, recipe.for_prediction, name)


def _generation_service(run: Run, name: str) -> "Service":
    from trainer.config.saved_recipe import prompt_style
    from trainer.devices.device_memory import memory_left
    from trainer.devices.host_memory import available_bytes
    from trainer.jobs.parts.model import load_generator
    from trainer.models.pretrained import PretrainedModel
    from trainer.serving.app import Service
    from trainer.serving.figures import Figures
    from trainer.serving.generation_worker import GenerationWorker, cache_tokens_that_fit
    from trainer.serving.openai_routes import GenerationRoutes
    from trainer.serving.request_prompts import PromptBuilder
    from trainer.serving.scheduler import Scheduler

    model, tokenizer, ends = load_generator(run)
    if not isinstance(model, PretrainedModel):
        found = f"{run.model.path} runs through transformers"
        raise InputError(f"job: {found}; accepted with job=serve: a native family")
    style = prompt_style(run)
    prompt_builder = PromptBuilder(model, tokenizer, ends, style, run.generation, run.serve)
    max_cache_tokens = run.serve.max_cache_tokens
    if max_cache_tokens is None:
        on_host = model.device.type == "cpu"
        available = available_bytes() if on_host else memory_left(model.device)
        max_cache_tokens = cache_tokens_that_fit(model, available)
    figures = Figures()
    limits = (max_cache_tokens, run.serve.max_read_tokens, run.serve.max_running_texts)
    worker = GenerationWorker(model, tokenizer, figures, *limits)
    scheduler = Scheduler(worker)
    routes = GenerationRoutes(name, tokenizer, prompt_builder, scheduler, worker)
    info = {
        "model_id": name,
        "model_type": "generator",
        "model_dtype": str(model.dtype).removeprefix("torch."),
        "max_input_length": prompt_builder.max_length,
        "max_cache_tokens": max_cache_tokens,
        "max_concurrent_requests": run.serve.max_requests,
        "max_client_batch_size": run.serve.max_inputs,
    }
    return Service(name, routes.router, scheduler, figures, info)


def _prediction_service(run: Run, recipe: Recipe, name: str) -> "Service":
    from trainer.jobs.parts.foreign_recipe import recipe_for
    from trainer.jobs.parts.model import load_model
    from trainer.jobs.parts.processor import load_processor
    from trainer.serving.answer_routes import AnswerRoutes
    from trainer.serving.app import Service
    from trainer.serving.figures import Figures
    from trainer.serving.row_pipelines import RowPipelines
    from trainer.serving.row_worker import RowWorker
    from trainer.serving.scheduler import Scheduler
    from trainer.tokenizer import Tokenizer

    processor = load_processor(run, recipe)
    model = load_model(run.model, recipe.head, run.seed)
    pipelines = RowPipelines(model, recipe, processor, run.trainer)
    # A copy, since calls change a tokenizer's options while the model's thread uses the original.
    tokenizer = deepcopy(processor) if isinstance(processor, Tokenizer) else None
    pair_columns = recipe_for(run, ("text", "text_pair")).text_columns
    is_optional = len(pair_columns) == 2 and len(recipe.text_columns) == 1
    pair = pair_columns[1] if is_optional else None
    figures = Figures()
    scheduler = Scheduler(RowWorker(figures))
    model.register_forward_pre_hook(figures.count_read_tokens, with_kwargs=True)
    routes = AnswerRoutes(name, pipelines, tokenizer, scheduler, run.serve, pair)
    return Service(name, routes.router, scheduler, figures, routes.info(str(model.dtype)))


def _refuse_input(run: Run) -> None:
    for name in ("text", "text_pair", "prompt", "file", "corpus"):
        if getattr(run.input, name) is not None:
            raise InputError(f"input.{name}: job=serve has no such input; accepted: HTTP requests")
    if run.output.file is not None:
        raise InputError("output.file: job=serve writes none; accepted: null")


def _require_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"job=serve: {error.name} is not installed; pip install 'tempering[serve]'"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
