/* Max-pooling with torch's rule: the first maximum in the window's row-major order, or its last NaN. Part of inner.h.
 *
 * A window's maximum is that of its rows' maxima, which the rows below share. Rows are split into their stride_w phases,
 * so that a column of the window is contiguous. `from` is kh * kernel_w + kw.
 */

INLINE void FN(raise)(vec *best, ivec *from, vec v, ivec tap) {
    const ivec better = (v > *best) | (v != v);
    *best = (vec)((better & (ivec)v) | (~better & (ivec)*best));
    *from = (better & tap) | (~better & *from);
}

/* The maxima of `row`'s kernel_w columns, and the columns they came from. */
static void FN(row_maxima)(const window *w, const float *row, const float *end, int64_t phase, float *split,
                           const int32_t *first_tap, float *best_out, int32_t *from_out) {
    const int direct = w->stride_w == 1 && !w->pad_w && row + w->out_width + w->kernel_w + VL <= end;
    if (!direct)
        for (int64_t i = 0; i < w->width; i++)
            split[(i + w->pad_w) % w->stride_w * phase + (i + w->pad_w) / w->stride_w] = row[i];
    const float *from_row = direct ? row : split;
    for (int64_t i = 0; i < w->out_width; i += VL) {
        vec best = (vec){0} - __builtin_inff();
        ivec from = *(const ivec_u *)(first_tap + i);
        for (int64_t k = 0; k < w->kernel_w; k++)
            FN(raise)(&best, &from, LOAD(from_row + k % w->stride_w * phase + k / w->stride_w + i), (ivec){0} + (int32_t)k);
        STORE(best_out + i, best);
        *(ivec_u *)(from_out + i) = from;
    }
}

static void FN(pool_forward)(const window *w, const float *x, int64_t first, int64_t last, float *y, uint8_t *from,
                             float *work) {
    const int64_t wide = round_up(w->out_width, 16), phase = wide + w->kernel_w + 16, pixels = w->height * w->width;
    const float *end = x + w->planes * pixels;
    float *split = work, *maxima = split + w->stride_w * phase;
    int32_t *columns = (int32_t *)(maxima + w->kernel_h * wide), *first_tap = columns + w->kernel_h * wide;
    float *y_row = (float *)(first_tap + wide);
    uint8_t *from_row = (uint8_t *)(y_row + wide);
    for (int64_t i = 0; i < w->stride_w * phase; i++) split[i] = -__builtin_inff();
    for (int64_t i = 0; i < wide; i++) {
        const int64_t outside = w->pad_w - i * w->stride_w;
        first_tap[i] = outside > 0 ? (int32_t)outside : 0;
    }
    for (int64_t plane = first; plane < last; plane++) {
        const float *image = x + plane * pixels;
        int64_t known = 0; /* rows of the image whose maxima have been taken */
        for (int64_t oh = 0; oh < w->out_height; oh++) {
            const int64_t top = oh * w->stride_h - w->pad_h, low = top > 0 ? top : 0;
            const int64_t high = top + w->kernel_h < w->height ? top + w->kernel_h : w->height;
            for (known = known > low ? known : low; known < high; known++)
                FN(row_maxima)(w, image + known * w->width, end, phase, split, first_tap,
                               maxima + known % w->kernel_h * wide, columns + known % w->kernel_h * wide);
            float *to = y + (plane * w->out_height + oh) * w->out_width;
            uint8_t *from_to = from + (plane * w->out_height + oh) * w->out_width;
            for (int64_t i = 0; i < w->out_width; i += VL) {
                vec best = LOAD(maxima + low % w->kernel_h * wide + i);
                ivec tap = *(const ivec_u *)(columns + low % w->kernel_h * wide + i) + (int32_t)((low - top) * w->kernel_w);
                for (int64_t h = low + 1; h < high; h++) {
                    const int64_t slot = h % w->kernel_h * wide + i;
                    FN(raise)(&best, &tap, LOAD(maxima + slot),
                              *(const ivec_u *)(columns + slot) + (int32_t)((h - top) * w->kernel_w));
                }
                const bytes bits = __builtin_convertvector(tap, bytes);
                if (i + VL <= w->out_width) {
                    STORE(to + i, best);
                    memcpy(from_to + i, &bits, VL);
                } else {
                    STORE(y_row, best);
                    memcpy(from_row, &bits, VL);
                    for (int64_t k = 0; i + k < w->out_width; k++) to[i + k] = y_row[k], from_to[i + k] = from_row[k];
                }
            }
        }
    }
}

/* One window after the other, as torch does. */
static void FN(scatter)(const window *w, const float *dy, const uint8_t *from, float *dx) {
    for (int64_t oh = 0; oh < w->out_height; oh++)
        for (int64_t ow = 0; ow < w->out_width; ow++, dy++, from++) {
            const int64_t h = oh * w->stride_h - w->pad_h + *from / w->kernel_w;
            dx[h * w->width + ow * w->stride_w - w->pad_w + *from % w->kernel_w] += *dy;
        }
}

/* At stride 1 each pixel asks the windows over it, in the order in which FN(scatter) would come by. */
static void FN(gather)(const window *w, const float *dy, const uint8_t *from, float *dx, float *gradient,
                       uint8_t *source) {
    const int64_t margin = w->kernel_w - 1, wide = round_up(w->width + margin, 16) + 16;
    for (int64_t oh = 0; oh < w->out_height; oh++) { /* the margins stay as they are */
        memcpy(gradient + oh * wide + margin, dy + oh * w->out_width, w->out_width * sizeof(float));
        memcpy(source + oh * wide + margin, from + oh * w->out_width, w->out_width);
    }
    for (int64_t h = 0; h < w->height; h++)
        for (int64_t i = 0; i < w->width; i += VL) {
            vec sum = (vec){0};
            for (int64_t kh = w->kernel_h - 1; kh >= 0; kh--) {
                const int64_t oh = h + w->pad_h - kh;
                if (oh < 0 || oh >= w->out_height) continue;
                for (int64_t kw = w->kernel_w - 1; kw >= 0; kw--) {
                    const int64_t at = oh * wide + margin + i + w->pad_w - kw;
                    bytes bits;
                    memcpy(&bits, source + at, VL);
                    const ivec hit = __builtin_convertvector(bits, ivec) == (int32_t)(kh * w->kernel_w + kw);
                    sum += (vec)(hit & (ivec)LOAD(gradient + at));
                }
            }
            if (i + VL <= w->width) STORE(dx + h * w->width + i, sum);
            else for (int64_t k = 0; i + k < w->width; k++) dx[h * w->width + i + k] = sum[k];
        }
}

static void FN(pool_backward)(const window *w, const float *dy, const uint8_t *from, int64_t first, int64_t last,
                              float *dx, float *work) {
    const int64_t in_pixels = w->height * w->width, out_pixels = w->out_height * w->out_width;
    const int at_stride_1 = w->stride_h == 1 && w->stride_w == 1;
    const int64_t wide = round_up(w->width + w->kernel_w - 1, 16) + 16, size = w->out_height * wide;
    float *gradient = work;
    uint8_t *source = (uint8_t *)(gradient + size + 16);
    if (at_stride_1) {
        memset(gradient, 0, (size + 16) * sizeof(float));
        memset(source, 255, size + 16);
    }
    for (int64_t plane = first; plane < last; plane++) {
        const float *dy_plane = dy + plane * out_pixels;
        float *dx_plane = dx + plane * in_pixels;
        if (at_stride_1) FN(gather)(w, dy_plane, from + plane * out_pixels, dx_plane, gradient, source);
        else {
            memset(dx_plane, 0, in_pixels * sizeof(float));
            FN(scatter)(w, dy_plane, from + plane * out_pixels, dx_plane);
        }
    }
}
