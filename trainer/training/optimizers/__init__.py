"""Optimizers other than torch.optim's: one file each, named as in `trainer.optimizer`.

A file defines `build(named_parameters, settings)`. `ELEMENTWISE = True` lets it train sharded
models; `PACKAGE` names a required package.
"""
