/* Max-pooling with torch's rule: the first maximum in the window's row-major order, or its last NaN. Part of inner.h.
 *
 * A window's maximum is that of its rows' maxima, which the windows below share. Rows are split into their stride_w
 * phases, so that a column of the windows is contiguous. `from` is kh * kernel_w + kw.
 */

INLINE void FN(raise)(vec *best, ivec *from, vec v, ivec tap) {
#if VL == 16 && defined(__x86_64__)
    const __mmask16 better = _mm512_cmp_ps_mask((__m512)v, (__m512)*best, _CMP_GT_OQ) |
                             _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    *best = (vec)_mm512_mask_mov_ps((__m512)*best, better, (__m512)v);
    *from = (ivec)_mm512_mask_mov_epi32((__m512i)*from, better, (__m512i)tap);
#else
    const ivec better = (v > *best) | (v != v);
    *best = (vec)((better & (ivec)v) | (~better & (ivec)*best));
    *from = (better & tap) | (~better & *from);
#endif
}

/* Phase (i + pad) % stride of a row gets its pixel i at (i + pad) / stride. */
static void FN(split)(const float *row, int64_t width, int64_t stride, int64_t pad, int64_t phase, float *to) {
    int64_t i = 0;
    if (stride == 2) {
        float *even = to + pad % 2 * phase + pad / 2, *odd = to + (pad + 1) % 2 * phase + (pad + 1) / 2;
        for (; i + 2 * VL <= width; i += 2 * VL) {
            const vec a = LOAD(row + i), b = LOAD(row + i + VL);
            STORE(even + i / 2, PICK(a, b, EVERY_OTHER, 0));
            STORE(odd + i / 2, PICK(a, b, EVERY_OTHER, 1));
        }
    }
    int64_t p = (i + pad) % stride, at = (i + pad) / stride;
    for (; i < width; i++) {
        to[p * phase + at] = row[i];
        if (++p == stride) p = 0, at++;
    }
}

/* The maxima of a row's kernel_w columns, column k being at row + at[k], and the columns they came from. Without a
 * border every window begins with its column 0, else with first_tap. */
INLINE void FN(row_maxima)(const int64_t kernel_w, const int border, const float *row, const int32_t *at,
                           const int32_t *first_tap, int64_t out_width, float *maxima, int32_t *columns) {
    for (int64_t i = 0; i < out_width; i += VL) {
        vec best = LOAD(row + i);
        ivec from = {0};
        if (border) {
            best = (vec){0} - __builtin_inff();
            from = *(const ivec_u *)(first_tap + i);
        }
        for (int64_t k = !border; k < kernel_w; k++)
            FN(raise)(&best, &from, LOAD(row + at[k] + i), (ivec){0} + (int32_t)k);
        STORE(maxima + i, best);
        *(ivec_u *)(columns + i) = from;
    }
}

/* The same for windows of two columns at stride 2 without a border, from the row as it is. */
INLINE void FN(pair_maxima)(const float *row, int64_t out_width, float *maxima, int32_t *columns) {
    for (int64_t i = 0; i < out_width; i += VL) {
        const vec a = LOAD(row + 2 * i), b = LOAD(row + 2 * i + VL);
        vec best = PICK(a, b, EVERY_OTHER, 0);
        ivec from = {0};
        FN(raise)(&best, &from, PICK(a, b, EVERY_OTHER, 1), (ivec){0} + 1);
        STORE(maxima + i, best);
        *(ivec_u *)(columns + i) = from;
    }
}

INLINE void FN(pool_planes)(const int64_t kernel_h, const int64_t kernel_w, const window *w, const float *x,
                            int64_t first, int64_t last, float *y, uint8_t *from, float *work) {
    const int64_t wide = round_up(w->out_width, 16), phase = wide + kernel_w + 16, pixels = w->height * w->width;
    const float *end = x + w->planes * pixels, *y_end = y + last * w->out_height * w->out_width;
    float *row = work, *maxima = row + w->stride_w * phase, *y_row = maxima + kernel_h * wide;
    int32_t *columns = (int32_t *)(y_row + wide), *first_tap = columns + kernel_h * wide;
    uint8_t *from_row = (uint8_t *)(first_tap + wide);
    int32_t at[256];
    for (int64_t k = 0; k < kernel_w; k++) at[k] = (int32_t)(k % w->stride_w * phase + k / w->stride_w);
    for (int64_t i = 0; i < w->stride_w * phase; i++) row[i] = -__builtin_inff();
    for (int64_t i = 0; i < wide; i++) {
        const int64_t outside = w->pad_w - i * w->stride_w;
        first_tap[i] = outside > 0 ? (int32_t)outside : 0;
    }
    for (int64_t plane = first; plane < last; plane++) {
        int64_t known = 0, known_slot = 0; /* rows of the image whose maxima have been taken, in a ring of kernel_h */
        for (int64_t oh = 0; oh < w->out_height; oh++) {
            const int64_t top = oh * w->stride_h - w->pad_h, low = top > 0 ? top : 0;
            const int64_t high = top + kernel_h < w->height ? top + kernel_h : w->height, low_slot = low % kernel_h;
            if (known < low) known = low, known_slot = low_slot;
            for (; known < high; known++) {
                const float *image_row = x + plane * pixels + known * w->width;
                float *to = maxima + known_slot * wide;
                int32_t *columns_to = columns + known_slot * wide;
                /* without a border a row can be read where it lies, unless it is the tensor's last */
                const int in_place = !w->pad_w && image_row + (wide + kernel_w) * w->stride_w <= end;
                if (in_place && w->stride_w == 1)
                    FN(row_maxima)(kernel_w, 0, image_row, at, first_tap, w->out_width, to, columns_to);
                else if (in_place && w->stride_w == 2 && kernel_w == 2)
                    FN(pair_maxima)(image_row, w->out_width, to, columns_to);
                else {
                    FN(split)(image_row, w->width, w->stride_w, w->pad_w, phase, row);
                    FN(row_maxima)(kernel_w, 1, row, at, first_tap, w->out_width, to, columns_to);
                }
                if (++known_slot == kernel_h) known_slot = 0;
            }
            float *to = y + (plane * w->out_height + oh) * w->out_width;
            uint8_t *from_to = from + (plane * w->out_height + oh) * w->out_width;
            for (int64_t i = 0; i < w->out_width; i += VL) {
                int64_t slot = low_slot, tap = (low - top) * kernel_w;
                vec best = LOAD(maxima + slot * wide + i);
                ivec taps = *(const ivec_u *)(columns + slot * wide + i) + (int32_t)tap;
                for (int64_t h = low + 1; h < high; h++) {
                    if (++slot == kernel_h) slot = 0;
                    tap += kernel_w;
                    FN(raise)(&best, &taps, LOAD(maxima + slot * wide + i),
                              *(const ivec_u *)(columns + slot * wide + i) + (int32_t)tap);
                }
                const bytes narrow = __builtin_convertvector(taps, bytes);
                if (to + i + VL <= y_end) { /* what runs past the row is overwritten by the next one */
                    STORE(to + i, best);
                    memcpy(from_to + i, &narrow, VL);
                } else {
                    STORE(y_row, best);
                    memcpy(from_row, &narrow, VL);
                    for (int64_t k = 0; i + k < w->out_width; k++) to[i + k] = y_row[k], from_to[i + k] = from_row[k];
                }
            }
        }
    }
}

/* 3x3 windows at stride 1 without a border, of at least a vector's width: down the columns, the maxima of the last rows
 * in registers. The last vector of a row begins early enough to end with it. */
static void FN(pool_3x3)(const window *w, const float *x, int64_t first, int64_t last, float *y, uint8_t *from) {
    for (int64_t plane = first; plane < last; plane++)
        for (int64_t block = 0; block < w->out_width; block += VL) {
            const int64_t i = block + VL <= w->out_width ? block : w->out_width - VL;
            const float *row = x + plane * w->height * w->width + i;
            int64_t to = plane * w->out_height * w->out_width + i;
            vec best[3] = {{0}};
            ivec tap[3] = {{0}};
            for (int64_t h = 0; h < w->height; h++, row += w->width) {
                best[0] = best[1], best[1] = best[2], tap[0] = tap[1], tap[1] = tap[2];
                best[2] = LOAD(row), tap[2] = (ivec){0};
                FN(raise)(&best[2], &tap[2], LOAD(row + 1), (ivec){0} + 1);
                FN(raise)(&best[2], &tap[2], LOAD(row + 2), (ivec){0} + 2);
                if (h < 2) continue;
                vec top = best[0];
                ivec taps = tap[0];
                FN(raise)(&top, &taps, best[1], tap[1] + 3);
                FN(raise)(&top, &taps, best[2], tap[2] + 6);
                const bytes narrow = __builtin_convertvector(taps, bytes);
                STORE(y + to, top);
                memcpy(from + to, &narrow, VL);
                to += w->out_width;
            }
        }
}

static void FN(pool_forward)(const window *w, const float *x, int64_t first, int64_t last, float *y, uint8_t *from,
                             float *work) {
    const int plain = w->stride_h == 1 && w->stride_w == 1 && !w->pad_h && !w->pad_w && w->out_width >= VL;
    if (plain && w->kernel_h == 3 && w->kernel_w == 3) FN(pool_3x3)(w, x, first, last, y, from);
    else if (w->kernel_h == 3 && w->kernel_w == 3) FN(pool_planes)(3, 3, w, x, first, last, y, from, work);
    else if (w->kernel_h == 2 && w->kernel_w == 2) FN(pool_planes)(2, 2, w, x, first, last, y, from, work);
    else FN(pool_planes)(w->kernel_h, w->kernel_w, w, x, first, last, y, from, work);
}
