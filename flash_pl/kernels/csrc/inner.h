/* The inner loops for one instruction set; native.c includes this file once for each.
 *
 * ISA is the suffix of the names, VL the floats of a vector. Every sum has one order of its terms, which depends on
 * shapes alone. Reads and writes may run up to one vector past the asked length; workspaces have room for that.
 */

#define JOIN_(name, isa) name##_##isa
#define JOIN(name, isa) JOIN_(name, isa)
#define FN(name) JOIN(name, ISA)
#define vec FN(vec)
#define vec_u FN(vec_u)
#define ivec FN(ivec)
#define ivec_u FN(ivec_u)

typedef float vec __attribute__((vector_size(4 * VL), may_alias));
typedef float vec_u __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * VL), may_alias));
typedef int32_t ivec_u __attribute__((vector_size(4 * VL), aligned(4), may_alias));

#define LOAD(p) ((vec) * (const vec_u *)(p))
#define STORE(p, v) (*(vec_u *)(p) = (v))
#define SPLAT(x) ((x) - (vec){0}) /* x - 0 is x of either sign, so there is no subtraction */

#if VL == 16
#define LANES(f, s) f(s, 0), f(s, 1), f(s, 2), f(s, 3), f(s, 4), f(s, 5), f(s, 6), f(s, 7), \
                    f(s, 8), f(s, 9), f(s, 10), f(s, 11), f(s, 12), f(s, 13), f(s, 14), f(s, 15)
#elif VL == 8
#define LANES(f, s) f(s, 0), f(s, 1), f(s, 2), f(s, 3), f(s, 4), f(s, 5), f(s, 6), f(s, 7)
#else
#define LANES(f, s) f(s, 0), f(s, 1), f(s, 2), f(s, 3)
#endif
#define OWN(s, k) (((k) & (s)) ? VL + (k) : (k))
#define CROSS(s, k) (((k) & (s)) ? VL + (k) - (s) : (k) + (s))
#define LOW(s, k) (((k) & (s)) ? VL + (k) - (s) : (k))
#define HIGH(s, k) (((k) & (s)) ? VL + (k) : (k) + (s))
#ifdef __clang__
#define PICK(a, b, f, s) __builtin_shufflevector(a, b, LANES(f, s))
#else
#define PICK(a, b, f, s) __builtin_shuffle(a, b, (ivec){LANES(f, s)})
#endif

/* ---- the end of a run: fewer floats than a vector has ---------------------------------------------------------- */

INLINE vec FN(load_some)(const float *p, int64_t count) {
    float lanes[VL] = {0};
    for (int64_t i = 0; i < count; i++) lanes[i] = p[i];
    return LOAD(lanes);
}

INLINE void FN(store_some)(float *p, int64_t count, vec v) {
    float lanes[VL];
    STORE(lanes, v);
    for (int64_t i = 0; i < count; i++) p[i] = lanes[i];
}

/* Do something for each vector of a run, at `i`, of `count` floats: all but the last one are full. */
#define EACH_VECTOR(run, ...)                                    \
    {                                                            \
        int64_t i = 0;                                           \
        for (; i + VL <= (run); i += VL) {                       \
            enum { count = VL };                                 \
            __VA_ARGS__                                          \
        }                                                        \
        if (i < (run)) {                                         \
            const int64_t count = (run) - i;                     \
            __VA_ARGS__                                          \
        }                                                        \
    }
#define GET(p) (count == VL ? LOAD(p) : FN(load_some)(p, count))
#define PUT(p, v) do { if (count == VL) STORE(p, v); else FN(store_some)(p, count, v); } while (0)

/* The same for bytes and the integers of a vector. */
typedef bytes FN(bytes_u) __attribute__((aligned(1), may_alias));

INLINE ivec FN(get_bytes)(const uint8_t *p, int64_t count) {
#if VL == 16 && defined(__x86_64__) /* GCC converts one byte after the other */
    if (count == VL) return (ivec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif VL == 8 && defined(__x86_64__)
    if (count == VL) return (ivec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#else
    if (count == VL) return __builtin_convertvector(*(const FN(bytes_u) *)p, ivec);
#endif
    bytes some = {0};
    memcpy(&some, p, (size_t)count);
    return __builtin_convertvector(some, ivec);
}

INLINE void FN(put_bytes)(uint8_t *p, int64_t count, ivec v) {
    const bytes narrow = __builtin_convertvector(v, bytes);
    if (count == VL) *(FN(bytes_u) *)p = narrow;
    else memcpy(p, &narrow, (size_t)count);
}

/* NaN limits clamp nothing. */
INLINE vec FN(clamp)(vec v, float low, float high) {
    const ivec below = v <= low, above = v >= high;
    v = (vec)((below & (ivec)((vec){0} + low)) | (~below & (ivec)v));
    return (vec)((above & (ivec)((vec){0} + high)) | (~above & (ivec)v));
}

INLINE vec FN(apply)(const affine *f, int64_t channel, vec x) {
    return FN(clamp)((x - f->center[channel]) * f->factor[channel] + f->offset[channel], f->low, f->high);
}

/* ---- sums of lanes ---------------------------------------------------------------------------------------------- */

INLINE vec FN(pair)(vec a, vec b, const int s) {
    switch (s) {
    case 1: return PICK(a, b, OWN, 1) + PICK(a, b, CROSS, 1);
    case 2: return PICK(a, b, OWN, 2) + PICK(a, b, CROSS, 2);
    default: return PICK(a, b, OWN, 4) + PICK(a, b, CROSS, 4);
    }
}

/* sum[i] = the sum of the lanes of acc[i], i < 8. */
INLINE void FN(sum_lanes)(const vec acc[8], float sum[8]) {
    const vec a = FN(pair)(FN(pair)(acc[0], acc[1], 1), FN(pair)(acc[2], acc[3], 1), 2);
    const vec b = FN(pair)(FN(pair)(acc[4], acc[5], 1), FN(pair)(acc[6], acc[7], 1), 2);
#if VL == 4
    STORE(sum, a);
    STORE(sum + 4, b);
#else
    float lanes[VL];
    STORE(lanes, FN(pair)(a, b, 4));
    for (int i = 0; i < 8; i++) sum[i] = lanes[i] + (VL == 16 ? lanes[(i + 8) % VL] : 0.0f);
#endif
}

/* ---- between the batch as the first and as the innermost dimension ----------------------------------------------- */

INLINE void FN(transpose)(vec v[VL]) {
#define SWAP(s)                                                   \
    UNROLL for (int i = 0; i < VL; i++) if (!(i & (s))) {         \
        const vec a = v[i], b = v[i | (s)];                       \
        v[i] = PICK(a, b, LOW, s);                                \
        v[i | (s)] = PICK(a, b, HIGH, s);                         \
    }
    SWAP(1)
    SWAP(2)
#if VL >= 8
    SWAP(4)
#endif
#if VL >= 16
    SWAP(8)
#endif
#undef SWAP
}

/* to[place][b] = from[b][c][i] with place = c * channel + i * pixel, or the way back: VL x VL floats at once. */
INLINE void FN(exchange_order)(const float *from, int64_t batch, int64_t channels, int64_t pixels, int64_t channel,
                               int64_t pixel, float *to, const int in) {
    const int64_t size = channels * pixels, whole = size - size % VL;
    for (int64_t image = 0; image < batch; image += VL) {
        const int64_t count = batch - image < VL ? batch - image : VL;
        int64_t c = 0, i = 0, at[VL];
        for (int64_t n = 0; n < whole; n += VL) {
            vec v[VL];
            UNROLL for (int k = 0; k < VL; k++) {
                at[k] = c * channel + i * pixel + image;
                if (++i == pixels) i = 0, c++;
            }
            if (in) {
                UNROLL for (int k = 0; k < VL; k++) v[k] = k < count ? LOAD(from + (image + k) * size + n) : (vec){0};
                FN(transpose)(v);
                UNROLL for (int k = 0; k < VL; k++)
                    if (count == VL) STORE(to + at[k], v[k]);
                    else for (int64_t b = 0; b < count; b++) to[at[k] + b] = v[k][b];
            } else {
                UNROLL for (int k = 0; k < VL; k++) v[k] = GET(from + at[k]);
                FN(transpose)(v);
                UNROLL for (int k = 0; k < VL; k++)
                    if (k < count) STORE(to + (image + k) * size + n, v[k]);
            }
        }
        for (int64_t n = whole; n < size; n++) {
            const int64_t place = c * channel + i * pixel + image;
            for (int64_t b = 0; b < count; b++) {
                if (in) to[place + b] = from[(image + b) * size + n];
                else to[(image + b) * size + n] = from[place + b];
            }
            if (++i == pixels) i = 0, c++;
        }
    }
}

static void FN(interleave)(const float *from, int64_t batch, int64_t channels, int64_t pixels, int64_t channel,
                           int64_t pixel, float *to) {
    FN(exchange_order)(from, batch, channels, pixels, channel, pixel, to, 1);
}

static void FN(separate)(const float *from, int64_t batch, int64_t channels, int64_t pixels, int64_t channel,
                         int64_t pixel, float *to) {
    FN(exchange_order)(from, batch, channels, pixels, channel, pixel, to, 0);
}

#include "conv.h"
#include "norm.h"
#include "pool.h"

static const kernels FN(kernels) = {
    FN(multiply), FN(correlate), FN(interleave), FN(separate), FN(pool_forward), FN(pool_backward),
    FN(moments), FN(norm_forward), FN(norm_backward), FN(totals),
};

#undef JOIN_
#undef JOIN
#undef FN
#undef vec
#undef vec_u
#undef ivec
#undef ivec_u
#undef LOAD
#undef STORE
#undef SPLAT
#undef LANES
#undef OWN
#undef CROSS
#undef LOW
#undef HIGH
#undef PICK
#undef ISA
#undef VL
