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
#define EVERY_OTHER(s, k) (2 * (k) + (s))
#ifdef __clang__
#define PICK(a, b, f, s) __builtin_shufflevector(a, b, LANES(f, s))
#else
#define PICK(a, b, f, s) __builtin_shuffle(a, b, (ivec){LANES(f, s)})
#endif

/* ---- sums of products ---------------------------------------------------------------------------------------- */

/* y[0 : T*VL] = bias + sum_j val[j] * x[off[j] : off[j] + T*VL], in `chains` partial sums by j mod chains. */
INLINE void FN(tile)(const int T, const int chains, const float *x, const int32_t *off, const float *val, int64_t n,
                     float bias, float *y) {
    vec acc[8];
    UNROLL for (int i = 0; i < T * chains; i++) acc[i] = (vec){0} + (i < T ? bias : 0.0f);
    int64_t j = 0;
    for (; j + chains <= n; j += chains)
        UNROLL for (int c = 0; c < chains; c++) {
            const float *q = x + off[j + c];
            const vec v = (vec){0} + val[j + c];
            UNROLL for (int t = 0; t < T; t++) acc[c * T + t] += v * LOAD(q + t * VL);
        }
    for (; j < n; j++) {
        const float *q = x + off[j];
        const vec v = (vec){0} + val[j];
        UNROLL for (int t = 0; t < T; t++) acc[t] += v * LOAD(q + t * VL);
    }
    UNROLL for (int c = 1; c < chains; c++)
        UNROLL for (int t = 0; t < T; t++) acc[t] += acc[c * T + t];
    UNROLL for (int t = 0; t < T; t++) STORE(y + t * VL, acc[t]);
}

/* y[r][0:length] = bias[r] + sum_j val[j] * x[off[j] : off[j] + length] over the active weights j of row r. */
static void FN(multiply)(const float *x, const int32_t *start, const int32_t *off, const float *val, const float *bias,
                         int64_t rows, int64_t length, float *y) {
    const int64_t vectors = (length + VL - 1) / VL, tiles = (vectors + 7) / 8;
    int64_t p = 0;
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int T = (int)(vectors / tiles + (tile < vectors % tiles));
        for (int64_t r = 0; r < rows; r++) {
            const int32_t *o = off + start[r];
            const float *v = val + start[r], b = bias ? bias[r] : 0.0f;
            const int64_t n = start[r + 1] - start[r];
            float *to = y + r * length + p;
            switch (T) {
            case 8: FN(tile)(8, 1, x + p, o, v, n, b, to); break;
            case 7: FN(tile)(7, 1, x + p, o, v, n, b, to); break;
            case 6: FN(tile)(6, 1, x + p, o, v, n, b, to); break;
            case 5: FN(tile)(5, 1, x + p, o, v, n, b, to); break;
            case 4: FN(tile)(4, 2, x + p, o, v, n, b, to); break;
            case 3: FN(tile)(3, 2, x + p, o, v, n, b, to); break;
            case 2: FN(tile)(2, 4, x + p, o, v, n, b, to); break;
            default: FN(tile)(1, 8, x + p, o, v, n, b, to);
            }
        }
        p += T * VL;
    }
}

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

/* to[j] += sum_p d[p] * x[off[j] + p], j < J, in 8 / J partial sums by the vector's number. */
INLINE void FN(dots)(const int J, const float *x, const int32_t *off, const float *d, int64_t length, float *to) {
    const int chains = 8 / J;
    vec acc[8];
    UNROLL for (int i = 0; i < 8; i++) acc[i] = (vec){0};
    int64_t p = 0;
    for (; p + chains * VL <= length; p += chains * VL)
        UNROLL for (int c = 0; c < chains; c++) {
            const vec v = LOAD(d + p + c * VL);
            UNROLL for (int j = 0; j < J; j++) acc[j + c * J] += v * LOAD(x + off[j] + p + c * VL);
        }
    for (; p < length; p += VL) {
        const vec v = LOAD(d + p);
        UNROLL for (int j = 0; j < J; j++) acc[j] += v * LOAD(x + off[j] + p);
    }
    UNROLL for (int i = J; i < 8; i++) {
        acc[i % J] += acc[i];
        acc[i] = (vec){0};
    }
    float sum[8];
    FN(sum_lanes)(acc, sum);
    UNROLL for (int j = 0; j < J; j++) to[j] += sum[j];
}

/* grad[j] += sum_p d[r][p] * x[off[j] + p] for the active weights j of each row r in [first, last). */
static void FN(correlate)(const float *x, const int32_t *start, const int32_t *off, const float *d, int64_t plane,
                          int64_t first, int64_t last, int64_t length, float *grad) {
    for (int64_t r = first; r < last; r++) {
        const float *dr = d + r * plane;
        int64_t j = start[r];
        const int64_t end = start[r + 1];
        for (; j + 8 <= end; j += 8) FN(dots)(8, x, off + j, dr, length, grad + j);
        if (j + 4 <= end) FN(dots)(4, x, off + j, dr, length, grad + j), j += 4;
        if (j + 2 <= end) FN(dots)(2, x, off + j, dr, length, grad + j), j += 2;
        if (j < end) FN(dots)(1, x, off + j, dr, length, grad + j);
    }
}

/* The sum of p[0:length]. */
static float FN(total)(const float *p, int64_t length) {
    vec acc[8];
    UNROLL for (int i = 0; i < 8; i++) acc[i] = (vec){0};
    for (int64_t i = 0; i < length; i += VL) acc[0] += LOAD(p + i);
    float sum[8];
    FN(sum_lanes)(acc, sum);
    return sum[0];
}

/* ---- between images and planes ------------------------------------------------------------------------------- */

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

/* planes[c * plane + at[i]][lane] = images[lane][c][i]: `count` images interleaved, the other lanes are zero.
 * at[i] < 0 leaves pixel i out. */
static void FN(interleave)(const float *images, int64_t count, int64_t channels, int64_t pixels, const int32_t *at,
                           int64_t channel, int64_t lanes, float *planes) {
    const int64_t size = channels * pixels, whole = size - size % VL;
    for (int64_t lane = 0; lane < lanes; lane += VL) {
        int64_t i = 0, pixel = 0;
        float *to = planes + lane;
        for (; i < whole; i += VL) {
            vec v[VL];
            UNROLL for (int k = 0; k < VL; k++)
                v[k] = lane + k < count ? LOAD(images + (lane + k) * size + i) : (vec){0};
            FN(transpose)(v);
            UNROLL for (int k = 0; k < VL; k++) {
                if (at[pixel] >= 0) STORE(to + at[pixel], v[k]);
                if (++pixel == pixels) pixel = 0, to += channel;
            }
        }
        for (; i < size; i++) {
            if (at[pixel] >= 0)
                for (int k = 0; k < VL; k++)
                    to[at[pixel] + k] = lane + k < count ? images[(lane + k) * size + i] : 0.0f;
            if (++pixel == pixels) pixel = 0, to += channel;
        }
    }
}

/* The way back: images[lane][c][i] = planes[c * channel + at[i]][lane], zero where at[i] < 0. */
static void FN(separate)(const float *planes, int64_t count, int64_t channels, int64_t pixels, const int32_t *at,
                         int64_t channel, int64_t lanes, float *images) {
    const int64_t size = channels * pixels, whole = size - size % VL;
    for (int64_t lane = 0; lane < lanes && lane < count; lane += VL) {
        int64_t i = 0, pixel = 0;
        const float *from = planes + lane;
        for (; i < whole; i += VL) {
            vec v[VL];
            UNROLL for (int k = 0; k < VL; k++) {
                v[k] = at[pixel] >= 0 ? LOAD(from + at[pixel]) : (vec){0};
                if (++pixel == pixels) pixel = 0, from += channel;
            }
            FN(transpose)(v);
            UNROLL for (int k = 0; k < VL; k++)
                if (lane + k < count) STORE(images + (lane + k) * size + i, v[k]);
        }
        for (; i < size; i++) {
            for (int k = 0; k < VL && lane + k < count; k++)
                images[(lane + k) * size + i] = at[pixel] >= 0 ? from[at[pixel] + k] : 0.0f;
            if (++pixel == pixels) pixel = 0, from += channel;
        }
    }
}

#include "planes.h"
#include "pool.h"
#include "norm.h"

static const kernels FN(kernels) = {FN(forward), FN(backward), FN(pool_forward), FN(norm_forward), FN(norm_backward)};

#undef JOIN_
#undef JOIN
#undef FN
#undef vec
#undef vec_u
#undef ivec
#undef ivec_u
#undef LOAD
#undef STORE
#undef LANES
#undef OWN
#undef CROSS
#undef LOW
#undef HIGH
#undef EVERY_OTHER
#undef PICK
#undef ISA
#undef VL
