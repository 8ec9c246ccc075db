/* Max-pooling with torch's rule: the first maximum in the window's row-major order, or its last NaN. Part of inner.h.
 * `from` is kh * kernel_w + kw and lies as y does.
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

/* The pixels that one pixel is computed from, and the positions in the window that connect them. */
typedef struct {
    int64_t count, place[256];
    int32_t tap[256];
} FN(sources);

/* The channels [first, last) as `planes` planes whose pixels are `run` floats each. */
typedef struct {
    int64_t planes, run, in, out; /* in, out: floats from plane to plane */
} FN(planes);

static FN(planes) FN(as_planes)(const window *w, int64_t first, int64_t last) {
    if (w->in.channel == w->batch && w->out.channel == w->batch)
        return (FN(planes)){1, (last - first) * w->batch, 0, 0};
    return (FN(planes)){last - first, w->batch, w->in.channel, w->out.channel};
}

static void FN(pool_forward)(const window *w, const float *x, int64_t first, int64_t last, float *y, uint8_t *from) {
    const FN(planes) each = FN(as_planes)(w, first, last);
    x += first * w->in.channel, y += first * w->out.channel, from += first * w->out.channel;
    for (int64_t oh = 0; oh < w->out_height; oh++)
        for (int64_t ow = 0; ow < w->out_width; ow++) {
            FN(sources) s;
            s.count = 0;
            for (int64_t t = 0; t < w->kernel_h * w->kernel_w; t++) {
                const int64_t h = oh * w->stride_h - w->pad_h + t / w->kernel_w;
                const int64_t v = ow * w->stride_w - w->pad_w + t % w->kernel_w;
                if (h < 0 || h >= w->height || v < 0 || v >= w->width) continue;
                s.place[s.count] = h * w->in.row + v * w->in.pixel;
                s.tap[s.count++] = (int32_t)t;
            }
            for (int64_t p = 0; p < each.planes; p++) {
                const float *in = x + p * each.in;
                const int64_t out = p * each.out + oh * w->out.row + ow * w->out.pixel;
                EACH_VECTOR(each.run,
                    vec best = GET(in + s.place[0] + i);
                    ivec tap = (ivec){0} + s.tap[0];
                    for (int64_t k = 1; k < s.count; k++)
                        FN(raise)(&best, &tap, GET(in + s.place[k] + i), (ivec){0} + s.tap[k]);
                    PUT(y + out + i, best);
                    FN(put_bytes)(from + out + i, count, tap);
                )
            }
        }
}

/* Each pixel adds up the windows that it was the maximum of, in their order, which is that of torch's sums. */
static void FN(pool_backward)(const window *w, const float *dy, const uint8_t *from, int64_t first, int64_t last,
                              float *dx) {
    const FN(planes) each = FN(as_planes)(w, first, last);
    dx += first * w->in.channel, dy += first * w->out.channel, from += first * w->out.channel;
    for (int64_t h = 0; h < w->height; h++)
        for (int64_t v = 0; v < w->width; v++) {
            FN(sources) s;
            s.count = 0;
            const int64_t y = h + w->pad_h, x = v + w->pad_w; /* in the padded image */
            const int64_t oh0 = y < w->kernel_h ? 0 : (y - w->kernel_h) / w->stride_h + 1;
            const int64_t ow0 = x < w->kernel_w ? 0 : (x - w->kernel_w) / w->stride_w + 1;
            for (int64_t oh = oh0; oh < w->out_height && oh * w->stride_h <= y; oh++)
                for (int64_t ow = ow0; ow < w->out_width && ow * w->stride_w <= x; ow++) {
                    s.place[s.count] = oh * w->out.row + ow * w->out.pixel;
                    s.tap[s.count++] = (int32_t)((y - oh * w->stride_h) * w->kernel_w + x - ow * w->stride_w);
                }
            for (int64_t p = 0; p < each.planes; p++) {
                const int64_t in = p * each.in + h * w->in.row + v * w->in.pixel, out = p * each.out;
                EACH_VECTOR(each.run,
                    vec sum = {0};
                    for (int64_t k = 0; k < s.count; k++) {
                        const ivec chosen = FN(get_bytes)(from + out + s.place[k] + i, count) == s.tap[k];
                        sum += (vec)(chosen & (ivec)GET(dy + out + s.place[k] + i));
                    }
                    PUT(dx + in + i, sum);
                )
            }
        }
}
