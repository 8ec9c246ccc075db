/* What each instruction set provides.
 *
 * The images of a tensor [batch, channels, height, width] lie side by side: element (b, c, h, w) is b floats behind
 * (0, c, h, w), so that a vector holds the same pixel of several images. Channels, rows and pixels lie in any order,
 * which `images` describes. All tensors are float32; `work` is a thread's own scratch memory.
 */
#ifndef FLASH_PL_KERNELS_H
#define FLASH_PL_KERNELS_H

#include <stdint.h>

typedef struct {
    int64_t channel, row, pixel; /* floats from one to the next */
} images;

/* One pass of a convolution, from the channels of a source to the rows of a target. In the forward pass the source is
 * the input and a row is a channel of the output. In the backward pass the source is the gradient of the output, and a
 * row is one of the step_h x step_w phases of a channel of the input's gradient: every step_h-th row of its pixels,
 * every step_w-th pixel of these.
 *
 * Rows are computed in tiles of tile_h x tile_w positions of `lanes` images. What a tile reads of a source channel is
 * copied into a buffer of buffer_h x buffer_w positions for each of the source's phases, zeros around the image
 * included. There an active weight finds what it multiplies at a place that is the same for all tiles. `block` channels
 * are copied at once, few enough to stay in the cache while all rows read them.
 */
typedef struct {
    int64_t batch, lanes;                    /* images of the batch, images of a tile */
    int64_t channels, height, width;         /* of the source, in pixels */
    int64_t stride_h, stride_w;              /* source pixels from position to position */
    int64_t phases_h, phases_w;              /* phases of the source that weights read */
    int64_t pad_h, pad_w;                    /* rows and columns of zeros before the source; below 0: not read */
    int64_t rows, out_height, out_width;     /* of the target; height and width in pixels */
    int64_t step_h, step_w;                  /* target pixels from position to position */
    int64_t shift_h, shift_w;                /* phase p begins with row (p - shift_h) mod step_h */
    int64_t grid_h, grid_w;                  /* positions of a row of the target */
    int64_t tile_h, tile_w, buffer_h, buffer_w;
    int64_t block, blocks;
} pass;

/* A function of the source that is computed while it is copied: clamp((x - center) factor + offset), by channel. */
typedef struct {
    const float *center, *factor, *offset;
    float low, high;
} affine;

/* The active weights of one row that read one block of channels. */
typedef struct {
    int32_t row, first, count;
    int32_t ends; /* 1: no block before has weights of this row, 2: no block after */
} visit;

/* The active weights in the order of a pass: by block, then by visit. */
typedef struct {
    const visit *visits;
    const int32_t *block_start; /* [blocks + 1]: each block's first visit */
    const int32_t *place;       /* of each weight, in the buffer */
} lists;

typedef struct {
    int64_t batch, channels, height, width, out_height, out_width;
    int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
    images in, out;
} window;

/* `runs` runs of `run` floats per channel; what `forward` computes is clamped to [low, high]. */
typedef struct {
    int64_t channels, channel, runs, step, run;
    float epsilon, low, high;
} norm;

typedef struct {
    /* target = bias + weights * f(source), for the tiles [first, last); f may be NULL. */
    void (*multiply)(const pass *p, const lists *l, const float *value, const float *bias, const float *source,
                     const images *from, const affine *f, int64_t first, int64_t last, float *target,
                     const images *to, float *work);
    /* gradient[j] += target * f(source) at each active weight j of each `parts`-th visit, by the forward pass. */
    void (*correlate)(const pass *p, const lists *l, const float *source, const images *from, const affine *f,
                      const float *target, const images *to, int64_t part, int64_t parts, float *gradient, float *work);
    /* to[place(i)][b] = from[b][i] for the images and the i < channels * pixels; and the way back. */
    void (*interleave)(const float *from, int64_t batch, int64_t channels, int64_t pixels, int64_t channel,
                       int64_t pixel, float *to);
    void (*separate)(const float *from, int64_t batch, int64_t channels, int64_t pixels, int64_t channel,
                     int64_t pixel, float *to);
    /* y and which of the window's positions it came from, for the channels [first, last); the gradient of x. */
    void (*pool_forward)(const window *w, const float *x, int64_t first, int64_t last, float *y, uint8_t *from);
    void (*pool_backward)(const window *w, const float *dy, const uint8_t *from, int64_t first, int64_t last,
                          float *dx);
    /* Mean and variance of the channels [first, last). */
    void (*moments)(const norm *n, const float *x, int64_t first, int64_t last, float *mean, float *variance);
    /* y = clamp((x - mean) / sqrt(variance + epsilon) * weight + bias + added). */
    void (*norm_forward)(const norm *n, const float *x, const float *weight, const float *bias, const float *mean,
                         const float *variance, const float *added, int64_t first, int64_t last, float *y);
    /* The gradients of x (unless NULL), of what was added (unless NULL), of weight and bias. y is NULL if nothing was
     * added; then it is computed again. */
    void (*norm_backward)(const norm *n, const float *x, const float *y, const float *dy, const float *weight,
                          const float *bias, const float *mean, const float *variance, int64_t first, int64_t last,
                          float *dx, float *dadded, float *dweight, float *dbias);
    /* The sums of the channels [first, last). */
    void (*totals)(const norm *n, const float *x, int64_t first, int64_t last, float *sum);
} kernels;

#endif
