/* Batch normalization; part of inner.h.
 *
 * A channel's values are `runs` runs of `run` floats, `step` floats from one to the next. A few runs of one channel are
 * read before the next channel, of at most a slab of channels whose sums are in the cache. Sums of up to 64 runs are of
 * floats, sums of these of doubles.
 */

#define SLAB 32
#define RUNS_OF_SUMS 64

#define sums FN(sums)
typedef struct {
    vec part[SLAB][2];
    double total[SLAB][2];
} sums;

/* How many runs of a channel are read before the next channel. */
static int64_t FN(few)(const norm *n) { return n->run >= 256 ? 1 : (255 + n->run) / n->run; }

#define EACH_RUN(n, begin, end, first, last)                                              \
    for (int64_t group = (begin), few = FN(few)(n); group < (end); group += few)          \
        for (int64_t c = (first); c < (last); c++)                                        \
            for (int64_t r = group; r < group + few && r < (end); r++)

/* After at most 64 runs: add up the lanes. */
static void FN(add_lanes)(sums *s, int64_t channels) {
    for (int64_t c = 0; c < channels; c += 4) {
        float lanes[8];
        FN(sum_lanes)(&s->part[c][0], lanes);
        for (int64_t k = 0; k < 8; k++) s->total[c + k / 2][k % 2] += lanes[k];
    }
    memset(s->part, 0, sizeof(s->part));
}

/* The sums of x - shift and of its square. */
static void FN(shifted_sums)(const norm *n, const float *x, const float *shift, int64_t first, int64_t last, sums *s) {
    memset(s, 0, sizeof(*s));
    for (int64_t begin = 0; begin < n->runs; begin += RUNS_OF_SUMS) {
        const int64_t end = n->runs - begin < RUNS_OF_SUMS ? n->runs : begin + RUNS_OF_SUMS;
        EACH_RUN(n, begin, end, first, last) {
            const float *p = x + c * n->channel + r * n->step, from = shift[c];
            vec a[4], b[4];
            UNROLL for (int k = 0; k < 4; k++) a[k] = b[k] = (vec){0};
            int64_t j = 0;
            for (; j + 4 * VL <= n->run; j += 4 * VL)
                UNROLL for (int k = 0; k < 4; k++) {
                    const vec v = LOAD(p + j + k * VL) - from;
                    a[k] += v;
                    b[k] += v * v;
                }
            for (; j + VL <= n->run; j += VL) {
                const vec v = LOAD(p + j) - from;
                a[0] += v;
                b[0] += v * v;
            }
            s->part[c - first][0] += (a[0] + a[1]) + (a[2] + a[3]);
            s->part[c - first][1] += (b[0] + b[1]) + (b[2] + b[3]);
            for (; j < n->run; j++) {
                s->total[c - first][0] += p[j] - from;
                s->total[c - first][1] += (p[j] - from) * (p[j] - from);
            }
        }
        FN(add_lanes)(s, last - first);
    }
}

/* x is read once: the sums are of x - shift, where the shift is the mean of a few values of the channel. So the
 * variance is no difference of large numbers. */
static void FN(moments)(const norm *n, const float *x, int64_t first, int64_t last, float *mean, float *variance) {
    const double count = (double)(n->runs * n->run);
    for (int64_t slab = first; slab < last; slab += SLAB) {
        const int64_t end = slab + SLAB < last ? slab + SLAB : last, some = n->run < 64 ? n->run : 64;
        for (int64_t c = slab; c < end; c++) {
            float sum = 0;
            for (int64_t i = 0; i < some; i++) sum += x[c * n->channel + n->runs / 2 * n->step + i];
            mean[c] = sum / (float)some;
        }
        sums s;
        FN(shifted_sums)(n, x, mean, slab, end, &s);
        for (int64_t c = slab; c < end; c++) {
            const double *t = s.total[c - slab], square = t[1] - t[0] * t[0] / count;
            mean[c] = (float)(mean[c] + t[0] / count);
            variance[c] = square < 0 ? 0.0f : (float)(square / count);
        }
    }
}

static void FN(totals)(const norm *n, const float *x, int64_t first, int64_t last, float *sum) {
    memset(sum + first, 0, (size_t)(last - first) * sizeof(float)); /* the shift */
    for (int64_t slab = first; slab < last; slab += SLAB) {
        const int64_t end = slab + SLAB < last ? slab + SLAB : last;
        sums s;
        FN(shifted_sums)(n, x, sum, slab, end, &s);
        for (int64_t c = slab; c < end; c++) sum[c] = (float)s.total[c - slab][0];
    }
}

/* The gradient of a clamp with the result y. */
INLINE vec FN(unclamped)(vec dy, vec y, float low, float high) {
    const ivec clamped = (y <= low) | (y >= high);
    return (vec)(~clamped & (ivec)dy);
}

static void FN(norm_forward)(const norm *n, const float *x, const float *weight, const float *bias, const float *mean,
                             const float *variance, const float *added, int64_t first, int64_t last, float *y) {
    for (int64_t slab = first; slab < last; slab += SLAB) {
        const int64_t end = slab + SLAB < last ? slab + SLAB : last;
        float scale[SLAB];
        for (int64_t c = slab; c < end; c++) scale[c - slab] = weight[c] / sqrtf(variance[c] + n->epsilon);
        EACH_RUN(n, 0, n->runs, slab, end) {
            const int64_t at = c * n->channel + r * n->step;
            const float center = mean[c], factor = scale[c - slab], offset = bias[c];
            if (added)
                EACH_VECTOR(n->run,
                    const vec v = (GET(x + at + i) - center) * factor + offset;
                    PUT(y + at + i, FN(clamp)(v + GET(added + at + i), n->low, n->high));
                )
            else
                EACH_VECTOR(n->run,
                    PUT(y + at + i, FN(clamp)((GET(x + at + i) - center) * factor + offset, n->low, n->high));
                )
        }
    }
}

/* With s = 1 / sqrt(variance + epsilon), z = (x - mean) s and g what of dy passes the clamp: dweight = sum g z,
 * dbias = sum g, dadded = g, dx = weight s (g - dbias / count - z dweight / count). */
static void FN(norm_backward)(const norm *n, const float *x, const float *y, const float *dy, const float *weight,
                              const float *bias, const float *mean, const float *variance, int64_t first,
                              int64_t last, float *dx, float *dadded, float *dweight, float *dbias) {
    const double values = (double)(n->runs * n->run);
    const float low = n->low, high = n->high;
    const int clamped = low == low || high == high; /* NaN limits clamp nothing */
    for (int64_t slab = first; slab < last; slab += SLAB) {
        const int64_t last_of_slab = slab + SLAB < last ? slab + SLAB : last;
        float factor[SLAB], even[SLAB], slope[SLAB];
        for (int64_t c = slab; c < last_of_slab; c++) factor[c - slab] = weight[c] / sqrtf(variance[c] + n->epsilon);
        sums s;
        memset(&s, 0, sizeof(s));
        for (int64_t begin = 0; begin < n->runs; begin += RUNS_OF_SUMS) {
            const int64_t end = n->runs - begin < RUNS_OF_SUMS ? n->runs : begin + RUNS_OF_SUMS;
            EACH_RUN(n, begin, end, slab, last_of_slab) {
                const int64_t at = c * n->channel + r * n->step;
                const float center = mean[c], scale = factor[c - slab], offset = bias[c];
                vec a = {0}, b = {0};
                EACH_VECTOR(n->run,
                    vec g = GET(dy + at + i); /* lanes beyond the run are zero */
                    const vec z = GET(x + at + i) - center;
                    vec result = z * scale + offset;
                    if (y) result = GET(y + at + i);
                    if (clamped) g = FN(unclamped)(g, result, low, high);
                    if (dadded) PUT(dadded + at + i, g);
                    a += g;
                    b += z * g;
                )
                s.part[c - slab][0] += a;
                s.part[c - slab][1] += b;
            }
            FN(add_lanes)(&s, last_of_slab - slab);
        }
        for (int64_t c = slab; c < last_of_slab; c++) {
            const double *t = s.total[c - slab], inverse = 1 / sqrt((double)variance[c] + n->epsilon);
            dbias[c] = (float)t[0];
            dweight[c] = (float)(t[1] * inverse);
            even[c - slab] = (float)(t[0] / values);
            slope[c - slab] = (float)(t[1] * inverse * inverse / values);
        }
        if (!dx) continue;
        const float *passed = dadded ? dadded : dy;
        EACH_RUN(n, 0, n->runs, slab, last_of_slab) {
            const int64_t at = c * n->channel + r * n->step;
            const float center = mean[c], scale = factor[c - slab], offset = bias[c];
            const float a = even[c - slab], b = slope[c - slab];
            EACH_VECTOR(n->run,
                const vec z = GET(x + at + i) - center;
                vec g = GET(passed + at + i);
                vec result = z * scale + offset;
                if (y) result = GET(y + at + i);
                if (clamped && !dadded) g = FN(unclamped)(g, result, low, high);
                PUT(dx + at + i, (g - a - z * b) * scale);
            )
        }
    }
}

#undef sums
