/* Layers for CPUs in time proportional to their active weights: one library, the widest instruction set of the machine
 * at run time. Also numbers of torch's generator. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"
#include "lists.h"
#include "twister.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef __GNUC__
#error "needs GCC or clang: vector extensions"
#endif

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

static int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

#if defined(__x86_64__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")
#endif
typedef uint8_t bytes_avx512 __attribute__((vector_size(16)));
#define bytes bytes_avx512
#define ISA avx512
#define VL 16
#define REGISTERS 32
#include "inner.h"
#undef bytes
#undef REGISTERS
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
typedef uint8_t bytes_avx2 __attribute__((vector_size(8)));
#define bytes bytes_avx2
#define ISA avx2
#define VL 8
#define REGISTERS 16
#include "inner.h"
#undef bytes
#undef REGISTERS
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

/* SSE2, or NEON, whose 32 registers are enough for wide tiles. */
typedef uint8_t bytes_baseline __attribute__((vector_size(4)));
#define bytes bytes_baseline
#define ISA baseline
#define VL 4
#if defined(__aarch64__)
#define BASELINE_REGISTERS 32
#else
#define BASELINE_REGISTERS 16
#endif
#define REGISTERS BASELINE_REGISTERS
#include "inner.h"
#undef bytes
#undef REGISTERS

static const kernels *chosen = &kernels_baseline;
static int vector = 4, registers = BASELINE_REGISTERS;

/* Of the functions and structures below; library.py expects the same. */
EXPORT int flash_pl_interface(void) { return 7; }

/* Use an instruction set by its name; 0 if this machine lacks it. */
EXPORT int flash_pl_use(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx2") && avx2) {
        chosen = &kernels_avx2, vector = 8, registers = 16;
        return 1;
    }
    if (!strcmp(name, "avx512") && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
        chosen = &kernels_avx512, vector = 16, registers = 32;
        return 1;
    }
#endif
    if (strcmp(name, "baseline")) return 0;
    chosen = &kernels_baseline, vector = 4, registers = BASELINE_REGISTERS;
    return 1;
}

/* Floats of a vector, and vectors that the processor's registers hold. */
EXPORT int flash_pl_vector(void) { return vector; }
EXPORT int flash_pl_registers(void) { return registers; }

EXPORT int flash_pl_lists(const layer *s, const pass *p, const uint8_t *mask, visit *visits, int32_t *block_start,
                          int32_t *place, int32_t *number) {
    return fill_lists(s, p, mask, visits, block_start, place, number);
}

/* value[j] = weight[index[j]]; and the way back. */
EXPORT void flash_pl_gather(const float *weight, const int32_t *index, int64_t count, float *value) {
    for (int64_t j = 0; j < count; j++) value[j] = weight[index[j]];
}

EXPORT void flash_pl_scatter(const float *value, const int32_t *index, int64_t count, float *weight) {
    for (int64_t j = 0; j < count; j++) weight[index[j]] = value[j];
}

EXPORT void flash_pl_scatter_add(const float *value, const int32_t *index, int64_t count, float *sum) {
    for (int64_t j = 0; j < count; j++) sum[index[j]] += value[j];
}

/* A step of plain gradient descent at the active weights: w -= rate * (g + decay * w). */
EXPORT void flash_pl_update(float *weight, const int32_t *index, const float *gradient, int64_t count, float rate,
                            float decay) {
    for (int64_t j = 0; j < count; j++) {
        const float w = weight[index[j]];
        weight[index[j]] = w - rate * (gradient[j] + decay * w);
    }
}

enum { PART = 1024 }; /* weights of a part that stays in the first cache */

/* The largest magnitude among the weights outside the mask, as the bits of a float: 0, finite, infinite or NaN. */
EXPORT int32_t flash_pl_largest_outside(const float *weight, const uint8_t *mask, int64_t count) {
    int32_t largest = 0;
    for (int64_t j = 0; j < count; j++) {
        int32_t bits;
        memcpy(&bits, weight + j, sizeof bits);
        bits &= INT32_MAX & ((int32_t)mask[j] - 1); /* 0 inside */
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

/* to = from * mask. */
EXPORT void flash_pl_masked(const float *from, const uint8_t *mask, int64_t count, float *to) {
    for (int64_t j = 0; j < count; j++) to[j] = from[j] * (float)mask[j];
}

/* weight *= mask. Writes to parts only where this changes something, which is rare. */
EXPORT void flash_pl_prune(float *weight, const uint8_t *mask, int64_t count) {
    for (int64_t first = 0; first < count; first += PART) {
        const int64_t part = count - first < PART ? count - first : PART;
        if (flash_pl_largest_outside(weight + first, mask + first, part))
            flash_pl_masked(weight + first, mask + first, part, weight + first);
    }
}

enum { LINE = 8 }; /* sums of a cache line */

/* sum += value * factor, each term rounded to the nearest integer, halves to even. Sums of zeros are not even read. */
EXPORT void flash_pl_accumulate(const float *value, int64_t count, double factor, int64_t *sum) {
    for (int64_t first = 0; first < count; first += LINE) {
        const int64_t last = count - first < LINE ? count : first + LINE;
        int any = 0;
        for (int64_t j = first; j < last; j++) any |= value[j] != 0;
        if (any)
            for (int64_t j = first; j < last; j++) sum[j] += llrint((double)value[j] * factor);
    }
}

EXPORT void flash_pl_multiply(const pass *p, const lists *l, const float *value, const float *bias, const float *source,
                              const images *from, const affine *f, int64_t first, int64_t last, float *target,
                              const images *to, float *work) {
    chosen->multiply(p, l, value, bias, source, from, f, first, last, target, to, work);
}

EXPORT void flash_pl_correlate(const pass *p, const lists *l, const float *source, const images *from,
                               const affine *f, const float *target, const images *to, int64_t part, int64_t parts,
                               float *gradient, float *work) {
    chosen->correlate(p, l, source, from, f, target, to, part, parts, gradient, work);
}

EXPORT void flash_pl_interleave(const float *from, int64_t batch, int64_t channels, int64_t pixels, int64_t channel,
                                int64_t pixel, float *to) {
    chosen->interleave(from, batch, channels, pixels, channel, pixel, to);
}

EXPORT void flash_pl_separate(const float *from, int64_t batch, int64_t channels, int64_t pixels, int64_t channel,
                              int64_t pixel, float *to) {
    chosen->separate(from, batch, channels, pixels, channel, pixel, to);
}

EXPORT void flash_pl_pool_forward(const window *w, const float *x, int64_t first, int64_t last, float *y,
                                  uint8_t *from) {
    chosen->pool_forward(w, x, first, last, y, from);
}

EXPORT void flash_pl_pool_backward(const window *w, const float *dy, const uint8_t *from, int64_t first, int64_t last,
                                   float *dx) {
    chosen->pool_backward(w, dy, from, first, last, dx);
}

EXPORT void flash_pl_moments(const norm *n, const float *x, int64_t first, int64_t last, float *mean, float *variance) {
    chosen->moments(n, x, first, last, mean, variance);
}

EXPORT void flash_pl_norm_forward(const norm *n, const float *x, const float *weight, const float *bias,
                                  const float *mean, const float *variance, const float *added, int64_t first,
                                  int64_t last, float *y) {
    chosen->norm_forward(n, x, weight, bias, mean, variance, added, first, last, y);
}

EXPORT void flash_pl_norm_backward(const norm *n, const float *x, const float *y, const float *dy, const float *weight,
                                   const float *bias, const float *mean, const float *variance, int64_t first,
                                   int64_t last, float *dx, float *dadded, float *dweight, float *dbias) {
    chosen->norm_backward(n, x, y, dy, weight, bias, mean, variance, first, last, dx, dadded, dweight, dbias);
}

EXPORT void flash_pl_totals(const norm *n, const float *x, int64_t first, int64_t last, float *sum) {
    chosen->totals(n, x, first, last, sum);
}

EXPORT void flash_pl_draw(uint32_t *state, int64_t *left, int64_t count, int64_t wanted, uint32_t *numbers) {
    draw(state, left, count, wanted, numbers);
}

/* Python's build tools ask for this symbol. The library is loaded with ctypes and never imported: no Python headers. */
EXPORT void *PyInit__native(void) { return NULL; }
