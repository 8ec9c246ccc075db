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
        for (int64_t q = 0; q < w->stride_w; q++) {
            const int64_t first = w->pad_w > q ? (w->pad_w - q + w->stride_w - 1) / w->stride_w : 0;
            const int64_t past = (w->width + w->pad_w - q + w->stride_w - 1) / w->stride_w;
            const float *at = row + q - w->pad_w;
            if (w->stride_w == 2) /* the usual case, for which the compiler has good code */
                for (int64_t b = first; b < past; b++) split[q * phase + b] = at[2 * b];
            else for (int64_t b = first; b < past; b++) split[q * phase + b] = at[b * w->stride_w];
        }
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

/* One window after the other, as torch does; `step[f]` is how far the position f of a window lies from its first. */
static void FN(pool_backward)(const window *w, const float *dy, const uint8_t *from, int64_t first, int64_t last,
                              float *dx, float *work) {
    const int64_t in_pixels = w->height * w->width, out_pixels = w->out_height * w->out_width;
    int32_t *step = (int32_t *)work;
    for (int64_t f = 0; f < w->kernel_h * w->kernel_w; f++)
        step[f] = (int32_t)(f / w->kernel_w * w->width + f % w->kernel_w);
    for (int64_t plane = first; plane < last; plane++) {
        const float *d = dy + plane * out_pixels;
        const uint8_t *f = from + plane * out_pixels;
        float *to = dx + plane * in_pixels;
        memset(to, 0, in_pixels * sizeof(float));
        for (int64_t oh = 0; oh < w->out_height; oh++, d += w->out_width, f += w->out_width) {
            const int64_t corner = (oh * w->stride_h - w->pad_h) * w->width - w->pad_w;
            for (int64_t ow = 0; ow < w->out_width; ow++) to[corner + ow * w->stride_w + step[f[ow]]] += d[ow];
        }
    }
}
