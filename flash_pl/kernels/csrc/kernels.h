/* What each instruction set provides. All tensors are contiguous float32; `work` is a thread's own scratch memory. */
#ifndef FLASH_PL_KERNELS_H
#define FLASH_PL_KERNELS_H

#include <stdint.h>

#include "geometry.h"

/* The active weights of one side, by row: row r has the weights start[r] .. start[r + 1] - 1, each with its place in the
 * planes that it reads. Rows are output channels, or phases of input channels for the gradient of the input. */
typedef struct {
    int64_t rows;
    const int32_t *start, *offset;
} lists;

typedef struct {
    int64_t planes, height, width, out_height, out_width;
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
} window;

typedef struct {
    int64_t batch, channels, pixels;
    float epsilon;
} norm;

typedef struct {
    /* y = bias + w * x for the groups [first, last) of the batch; a group is g->stack * g->lanes images. */
    void (*forward)(const geometry *g, const lists *out, const float *value, const float *bias, const float *x,
                    int64_t batch, int64_t first, int64_t last, float *y, float *work);
    /* The gradient of the input, of the groups [first, last), unless dx is NULL; the gradients of the active weights and
     * of the biases of the output channels [row, end) unless they are NULL. */
    void (*backward)(const geometry *g, const lists *out, const lists *in, const float *value, const float *x,
                     const float *dy, int64_t batch, int64_t first, int64_t last, int64_t row, int64_t end, float *dx,
                     float *dvalue, float *dbias, float *work);
    /* y and which of the window's positions it came from, for the planes [first, last). */
    void (*pool_forward)(const window *w, const float *x, int64_t first, int64_t last, float *y, uint8_t *from,
                         float *work);
    /* y, and the mean and variance of the channels [first, last). */
    void (*norm_forward)(const norm *n, const float *x, const float *weight, const float *bias, int64_t first,
                         int64_t last, float *y, float *mean, float *variance);
    /* The gradients of those channels; that of the input unless dx is NULL. */
    void (*norm_backward)(const norm *n, const float *x, const float *dy, const float *weight, const float *mean,
                          const float *variance, int64_t first, int64_t last, float *dx, float *dweight, float *dbias);
} kernels;

#endif
