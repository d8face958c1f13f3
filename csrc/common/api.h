// Marks what other libraries may call: those of C++ users, and the tests' emulation of CUDA.
#pragma once

#define UQFORCE_API __attribute__((visibility("default")))
