/* Batch normalization of [batch][channels][pixels], one channel after the other, so that what is read again lies near.
 * Sums within an image are of floats, over images of doubles. Part of inner.h.
 */

/* sums[0] = the sum of b - from, sums[1] = that of (a - center) * (b - from), over one channel. */
static void FN(channel_sums)(const norm *n, const float *a, float center, const float *b, float from, double sums[2]) {
    sums[0] = sums[1] = 0;
    for (int64_t image = 0; image < n->batch; image++, a += n->channels * n->pixels, b += n->channels * n->pixels) {
        vec acc[8];
        UNROLL for (int i = 0; i < 8; i++) acc[i] = (vec){0};
        int64_t p = 0;
        for (; p + 4 * VL <= n->pixels; p += 4 * VL)
            UNROLL for (int i = 0; i < 4; i++) {
                const vec v = LOAD(b + p + i * VL) - from;
                acc[i] += v;
                acc[4 + i] += (LOAD(a + p + i * VL) - center) * v;
            }
        for (; p + VL <= n->pixels; p += VL) {
            const vec v = LOAD(b + p) - from;
            acc[0] += v;
            acc[4] += (LOAD(a + p) - center) * v;
        }
        for (; p < n->pixels; p++) {
            const float v = b[p] - from;
            sums[0] += v;
            sums[1] += (a[p] - center) * v;
        }
        float sum[8];
        FN(sum_lanes)(acc, sum);
        for (int i = 0; i < 4; i++) sums[0] += sum[i], sums[1] += sum[4 + i];
    }
}

static void FN(norm_forward)(const norm *n, const float *x, const float *weight, const float *bias, int64_t first,
                             int64_t last, float *y, float *mean, float *variance) {
    const double count = (double)(n->batch * n->pixels);
    for (int64_t c = first; c < last; c++) {
        const float *from = x + c * n->pixels;
        double sums[2];
        FN(channel_sums)(n, from, 0, from, 0, sums);
        const float center = (float)(sums[0] / count);
        FN(channel_sums)(n, from, center, from, center, sums);
        mean[c] = center;
        variance[c] = (float)((sums[1] - sums[0] * sums[0] / count) / count); /* sums[0]: what rounding left */
        const float scale = weight[c] / sqrtf(variance[c] + n->epsilon), offset = bias[c];
        for (int64_t image = 0; image < n->batch; image++) {
            const int64_t at = (image * n->channels + c) * n->pixels;
            int64_t p = 0;
            for (; p + VL <= n->pixels; p += VL) STORE(y + at + p, (LOAD(x + at + p) - center) * scale + offset);
            for (; p < n->pixels; p++) y[at + p] = (x[at + p] - center) * scale + offset;
        }
    }
}

/* With s = 1 / sqrt(variance + epsilon) and z = (x - mean) s:
 * dweight = sum dy z, dbias = sum dy, dx = weight s (dy - dbias / count - z dweight / count). */
static void FN(norm_backward)(const norm *n, const float *x, const float *dy, const float *weight, const float *mean,
                              const float *variance, int64_t first, int64_t last, float *dx, float *dweight,
                              float *dbias) {
    const double count = (double)(n->batch * n->pixels);
    for (int64_t c = first; c < last; c++) {
        const float center = mean[c], s = 1 / sqrtf(variance[c] + n->epsilon), scale = weight[c] * s;
        double sums[2];
        FN(channel_sums)(n, x + c * n->pixels, center, dy + c * n->pixels, 0, sums);
        dbias[c] = (float)sums[0];
        dweight[c] = (float)(sums[1] * s);
        if (!dx) continue;
        const float even = (float)(sums[0] / count), slope = (float)(sums[1] * s * s / count);
        for (int64_t image = 0; image < n->batch; image++) {
            const int64_t at = (image * n->channels + c) * n->pixels;
            int64_t p = 0;
            for (; p + VL <= n->pixels; p += VL)
                STORE(dx + at + p, (LOAD(dy + at + p) - even - (LOAD(x + at + p) - center) * slope) * scale);
            for (; p < n->pixels; p++) dx[at + p] = (dy[at + p] - even - (x[at + p] - center) * slope) * scale;
        }
    }
}
