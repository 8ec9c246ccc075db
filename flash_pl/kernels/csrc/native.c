/* Sparse convolution, max-pooling and batch normalization for CPUs: one library, the widest instruction set of the machine at run time.
   Also numbers of torch's generator. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "geometry.h"
#include "kernels.h"
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

INLINE void copy_floats(float *to, const float *from, int64_t count) {
    if (count == 1) *to = *from;
    else if (count >= 16) memcpy(to, from, (size_t)count * sizeof(float));
    else for (int64_t i = 0; i < count; i++) to[i] = from[i];
}

/* Where each pixel of an input channel lies in its planes, from the row and column that are not trimmed; -1: nowhere.
   Returns how many lie somewhere. */
static int64_t places_of_input(const geometry *g, int64_t plane, int64_t trim_h, int64_t trim_w, int32_t *at) {
    int64_t placed = 0;
    for (int64_t h = 0; h < g->height; h++)
        for (int64_t w = 0; w < g->width; w++) {
            const int64_t y = h + g->pad_h, x = w + g->pad_w, a = y / g->stride_h, b = x / g->stride_w;
            const int64_t phase = y % g->stride_h * g->stride_w + x % g->stride_w;
            const int used = a < g->out_height + g->reach_h && b < g->out_width + g->reach_w;
            *at++ = used ? (int32_t)(phase * plane + ((a - trim_h) * g->row + b - trim_w) * g->lanes) : -1;
            placed += used;
        }
    return placed;
}

static void places_of_output(const geometry *g, int64_t lead_h, int64_t lead_w, int32_t *at) {
    for (int64_t h = 0; h < g->out_height; h++)
        for (int64_t w = 0; w < g->out_width; w++) *at++ = (int32_t)(((h + lead_h) * g->row + w + lead_w) * g->lanes);
}

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
#include "inner.h"
#undef bytes
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
#include "inner.h"
#undef bytes
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

typedef uint8_t bytes_baseline __attribute__((vector_size(4)));
#define bytes bytes_baseline
#define ISA baseline
#define VL 4
#include "inner.h"
#undef bytes

static const kernels *chosen = &kernels_baseline;

/* Of the functions and structures below; library.py expects the same. */
EXPORT int flash_pl_interface(void) { return 3; }

/* Use an instruction set by its name; 0 if this machine lacks it. */
EXPORT int flash_pl_use(const char *name) {
    const kernels *wanted = NULL;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx2") && avx2) wanted = &kernels_avx2;
    if (!strcmp(name, "avx512") && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        wanted = &kernels_avx512;
#endif
    if (!strcmp(name, "baseline")) wanted = &kernels_baseline;
    if (wanted) chosen = wanted;
    return wanted != NULL;
}

/* The active weights' values, in the order of `index`; and the way back. */
EXPORT void flash_pl_gather(const float *weight, const int32_t *index, int64_t count, float *value) {
    for (int64_t j = 0; j < count; j++) value[j] = weight[index[j]];
}

EXPORT void flash_pl_scatter(const float *value, const int32_t *index, int64_t count, float *weight) {
    for (int64_t j = 0; j < count; j++) weight[index[j]] = value[j];
}

/* A step of plain gradient descent at the active weights: w -= rate * (g + decay * w). */
EXPORT void flash_pl_update(float *weight, const int32_t *index, const float *gradient, int64_t count, float rate,
                            float decay) {
    for (int64_t j = 0; j < count; j++) {
        const float w = weight[index[j]];
        weight[index[j]] = w - rate * (gradient[j] + decay * w);
    }
}

EXPORT void flash_pl_forward(const geometry *g, const lists *out, const float *value, const float *bias, const float *x,
                             int64_t batch, int64_t first, int64_t last, float *y, float *work) {
    chosen->forward(g, out, value, bias, x, batch, first, last, y, work);
}

EXPORT void flash_pl_backward(const geometry *g, const lists *out, const lists *in, const float *value, const float *x,
                              const float *dy, int64_t batch, int64_t first, int64_t last, int64_t row, int64_t end,
                              float *dx, float *dvalue, float *dbias, float *work) {
    chosen->backward(g, out, in, value, x, dy, batch, first, last, row, end, dx, dvalue, dbias, work);
}

EXPORT void flash_pl_pool_forward(const window *w, const float *x, int64_t first, int64_t last, float *y, uint8_t *from,
                                  float *work) {
    chosen->pool_forward(w, x, first, last, y, from, work);
}

EXPORT void flash_pl_norm_forward(const norm *n, const float *x, const float *weight, const float *bias, int64_t first,
                                  int64_t last, float *y, float *mean, float *variance) {
    chosen->norm_forward(n, x, weight, bias, first, last, y, mean, variance);
}

EXPORT void flash_pl_norm_backward(const norm *n, const float *x, const float *dy, const float *weight,
                                   const float *mean, const float *variance, int64_t first, int64_t last, float *dx,
                                   float *dweight, float *dbias) {
    chosen->norm_backward(n, x, dy, weight, mean, variance, first, last, dx, dweight, dbias);
}

/* The gradient of the pooled planes [first, last): one window after the other, the order of torch's sums. */
EXPORT void flash_pl_pool_backward(const window *w, const float *dy, const uint8_t *from, int64_t first, int64_t last,
                                   float *dx) {
    const int64_t in_pixels = w->height * w->width, out_pixels = w->out_height * w->out_width;
    int64_t tap[256];
    for (int64_t t = 0; t < w->kernel_h * w->kernel_w; t++) tap[t] = t / w->kernel_w * w->width + t % w->kernel_w;
    memset(dx + first * in_pixels, 0, (size_t)((last - first) * in_pixels) * sizeof(float));
    dy += first * out_pixels, from += first * out_pixels;
    for (int64_t plane = first; plane < last; plane++)
        for (int64_t oh = 0; oh < w->out_height; oh++) {
            int64_t corner = plane * in_pixels + (oh * w->stride_h - w->pad_h) * w->width - w->pad_w;
            for (int64_t ow = 0; ow < w->out_width; ow++, corner += w->stride_w) dx[corner + tap[*from++]] += *dy++;
        }
}

EXPORT void flash_pl_draw(uint32_t *state, int64_t *left, int64_t count, int64_t wanted, uint32_t *numbers) {
    draw(state, left, count, wanted, numbers);
}

/* Python's build tools ask for this symbol. The library is loaded with ctypes and never imported: no Python headers. */
EXPORT void *PyInit__native(void) { return NULL; }
