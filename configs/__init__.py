"""The YAML files of all config groups; they are a package so that wheels include them."""
