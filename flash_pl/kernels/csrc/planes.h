/* Convolution: images to planes, the inner loop over planes, planes to images. Part of inner.h. */

/* Put `count` images into planes; see FN(interleave) for `at` and `channel`. `run` pixels lie side by side. */
static void FN(pack)(const geometry *g, const float *images, int64_t count, int64_t channels, int64_t pixels,
                     int64_t run, const int32_t *at, int64_t channel, float *planes) {
    if (g->lanes > 1) {
        FN(interleave)(images, count, channels, pixels, at, channel, g->lanes, planes);
        return;
    }
    for (int64_t image = 0; image < count; image++)
        for (int64_t c = 0; c < channels; c++) {
            const float *from = images + (image * channels + c) * pixels;
            float *to = planes + c * channel + image * g->rows * g->row;
            for (int64_t i = 0; i < pixels; i += run)
                if (at[i] >= 0) copy_floats(to + at[i], from + i, run);
        }
}

static void FN(unpack)(const geometry *g, const float *planes, int64_t count, int64_t channels, int64_t pixels,
                       int64_t run, const int32_t *at, int64_t channel, float *images) {
    if (g->lanes > 1) {
        FN(separate)(planes, count, channels, pixels, at, channel, g->lanes, images);
        return;
    }
    for (int64_t image = 0; image < count; image++)
        for (int64_t c = 0; c < channels; c++) {
            const float *from = planes + c * channel + image * g->rows * g->row;
            float *to = images + (image * channels + c) * pixels;
            for (int64_t i = 0; i < pixels; i += run) {
                if (at[i] >= 0) copy_floats(to + i, from + at[i], run);
                else for (int64_t k = 0; k < run; k++) to[i + k] = 0.0f;
            }
        }
}

static void FN(forward)(const geometry *g, const lists *out, const float *value, const float *bias, const float *x,
                        int64_t batch, int64_t first, int64_t last, float *y, float *work) {
    const int64_t group = g->stack * g->lanes, phases = g->stride_h * g->stride_w;
    const int64_t in_pixels = g->height * g->width, out_pixels = g->out_height * g->out_width;
    const int64_t run = g->stride_w == 1 ? g->width : 1, size = g->channels * phases * g->plane;
    float *planes = work, *computed = planes + size;
    int32_t *in_at = (int32_t *)(computed + g->outputs * g->out_plane), *out_at = in_at + in_pixels;
    const int64_t placed = places_of_input(g, g->plane, 0, 0, in_at);
    places_of_output(g, 0, 0, out_at);
    if (phases * g->plane != placed * g->lanes) memset(planes, 0, size * sizeof(float));
    for (int64_t n = first; n < last; n++) {
        const int64_t at = n * group, count = batch - at < group ? batch - at : group;
        FN(pack)(g, x + at * g->channels * in_pixels, count, g->channels, in_pixels, run, in_at, phases * g->plane, planes);
        FN(multiply)(planes, out->start, out->offset, value, bias, g->outputs, g->out_plane, computed);
        FN(unpack)(g, computed, count, g->outputs, out_pixels, g->out_width, out_at, g->out_plane,
                   y + at * g->outputs * out_pixels);
    }
}

static void FN(backward)(const geometry *g, const lists *out, const lists *in, const float *value, const float *x,
                         const float *dy, int64_t batch, int64_t first, int64_t last, int64_t row, int64_t end, float *dx,
                         float *dvalue, float *dbias, float *work) {
    const int64_t group = g->stack * g->lanes, groups = (batch + group - 1) / group, phases = g->stride_h * g->stride_w;
    const int64_t in_pixels = g->height * g->width, out_pixels = g->out_height * g->out_width;
    const int64_t run = g->stride_w == 1 ? g->width : 1;
    const int64_t x_size = g->channels * phases * g->plane, dy_size = g->outputs * g->plane;
    const int64_t lead = (g->lead_h * g->row + g->lead_w) * g->lanes;
    float *x_planes = work, *dy_planes = x_planes + x_size;
    float *computed = x_planes; /* the input comes where its gradient has been, which is smaller */
    int32_t *in_at = (int32_t *)(dy_planes + dy_size), *out_at = in_at + in_pixels, *dx_at = out_at + out_pixels;
    /* What no pixel fills is padding, and some pixels fill nothing: strides may pass over them. */
    const int borders = phases * g->plane != places_of_input(g, g->plane, 0, 0, in_at) * g->lanes;
    places_of_output(g, g->lead_h, g->lead_w, out_at);
    places_of_input(g, g->in_plane, g->trim_h, g->trim_w, dx_at);
    if (borders) memset(x_planes, 0, x_size * sizeof(float));
    memset(dy_planes, 0, dy_size * sizeof(float));
    if (dvalue) memset(dvalue + out->start[row], 0, (out->start[end] - out->start[row]) * sizeof(float));
    if (dbias) memset(dbias + row, 0, (end - row) * sizeof(float));
    for (int64_t n = 0; n < groups; n++) {
        const int64_t at = n * group, count = batch - at < group ? batch - at : group;
        const int mine = dx && n >= first && n < last, low = mine ? 0 : row, high = mine ? g->outputs : end;
        if (!mine && !dvalue && !dbias) continue;
        if (count < g->stack && n) memset(dy_planes, 0, dy_size * sizeof(float));
        for (int64_t image = 0; g->lanes == 1 && image < count; image++)
            FN(pack)(g, dy + ((at + image) * g->outputs + low) * out_pixels, 1, high - low, out_pixels, g->out_width,
                     out_at, g->plane, dy_planes + low * g->plane + image * g->rows * g->row);
        if (g->lanes > 1)
            FN(pack)(g, dy + at * g->outputs * out_pixels, count, g->outputs, out_pixels, g->out_width, out_at, g->plane,
                     dy_planes);
        if (mine) {
            FN(multiply)(dy_planes, in->start, in->offset, value, NULL, g->channels * phases, g->in_plane, computed);
            FN(unpack)(g, computed, count, g->channels, in_pixels, run, dx_at, phases * g->in_plane,
                       dx + at * g->channels * in_pixels);
        }
        if (dvalue) {
            if (mine && borders) memset(x_planes, 0, x_size * sizeof(float));
            FN(pack)(g, x + at * g->channels * in_pixels, count, g->channels, in_pixels, run, in_at, phases * g->plane,
                     x_planes);
            FN(correlate)(x_planes, out->start, out->offset, dy_planes + lead, g->plane, row, end, g->out_plane, dvalue);
        }
        if (dbias)
            for (int64_t r = row; r < end; r++) dbias[r] += FN(total)(dy_planes + lead + r * g->plane, g->out_plane);
    }
}
