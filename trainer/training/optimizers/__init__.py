"""Optimizers other than torch.optim's: one file each, named as in `trainer.optimizer`.

A file defines `build(named_parameters, settings)`. `ELEMENTWISE = True` lets the optimizer train
sharded models, `NEEDS_ACCELERATOR = True` excludes CPUs, and `PACKAGE` names a required package.
"""
