// Functions marked MASKRCNN_VECTORS are compiled for several instruction sets, and the best one is chosen when the library loads.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MASKRCNN_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define MASKRCNN_VECTORS
#endif
