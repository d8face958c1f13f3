// The operator library `uqforce`. Each kernel adds its own schemas in csrc/<op>/op.cpp.
#include <torch/library.h>

TORCH_LIBRARY(uqforce, m) {}
