/* Convolution in tiles; part of inner.h. The order of every sum depends on shapes and masks alone. */

/* ---- tiles: what they read and write ---------------------------------------------------------------------------- */

#define tile FN(tile)
typedef struct {
    int64_t image, count; /* first image and number of images */
    int64_t top, left;    /* first position */
    int whole;            /* all positions and images exist, whatever the row */
} tile;

static int64_t FN(tiles)(const pass *p) {
    return (p->batch + p->lanes - 1) / p->lanes * ((p->grid_w + p->tile_w - 1) / p->tile_w) *
           ((p->grid_h + p->tile_h - 1) / p->tile_h);
}

static tile FN(tile_at)(const pass *p, int64_t index) {
    const int64_t groups = (p->batch + p->lanes - 1) / p->lanes, across = (p->grid_w + p->tile_w - 1) / p->tile_w;
    tile t;
    t.image = index % groups * p->lanes;
    t.left = index / groups % across * p->tile_w;
    t.top = index / groups / across * p->tile_h;
    t.count = p->batch - t.image < p->lanes ? p->batch - t.image : p->lanes;
    t.whole = t.count == p->lanes && p->lanes % VL == 0 && (t.top + p->tile_h) * p->step_h <= p->out_height &&
              (t.left + p->tile_w) * p->step_w <= p->out_width;
    return t;
}

INLINE void FN(clear)(float *to, int64_t count) {
    int64_t i = 0;
    for (; i + VL <= count; i += VL) STORE(to + i, (vec){0});
    for (; i < count; i++) to[i] = 0;
}

/* Copy the same pixel of `count` images; the other lanes are zero. */
INLINE void FN(copy_pixel)(const float *from, int64_t count, int64_t lanes, float *to) {
    int64_t i = 0;
    for (; i + VL <= count; i += VL) STORE(to + i, LOAD(from + i));
    for (; i < count; i++) to[i] = from[i];
    for (; i < lanes; i++) to[i] = 0;
}

/* Copy f of `count` pixels: of a channel each if `channels` is set, otherwise of one channel. From pixel to pixel there
 * are `step` floats, and `to_step` in the copy. Without a source the copies are zero. */
INLINE void FN(copy_pixels)(const float *from, int64_t step, const affine *f, int64_t channel, const int channels,
                            int64_t images, int64_t lanes, int64_t count, float *to, int64_t to_step) {
    if (!from)
        for (int64_t n = 0; n < count; n++, to += to_step) FN(clear)(to, lanes);
    else if (lanes == VL && images == VL && !f)
        for (int64_t n = 0; n < count; n++, from += step, to += to_step) STORE(to, LOAD(from));
    else if (lanes == VL && images == VL)
        for (int64_t n = 0; n < count; n++, from += step, to += to_step)
            STORE(to, FN(apply)(f, channel + (channels ? n : 0), LOAD(from)));
    else
        for (int64_t n = 0; n < count; n++, from += step, to += to_step) {
            FN(copy_pixel)(from, images, lanes, to);
            if (f)
                EACH_VECTOR(images, PUT(to + i, FN(apply)(f, channel + (channels ? n : 0), GET(to + i)));)
        }
}

/* Copy f of what a tile reads of the source's channels [first, last), in the order of the source's memory. */
static void FN(fill_buffer)(const pass *p, const tile *t, const float *source, const images *from, const affine *f,
                            int64_t first, int64_t last, float *to) {
    const int64_t lanes = p->lanes, plane = p->buffer_h * p->buffer_w * lanes, phases = p->phases_h * p->phases_w;
    const int64_t step = p->stride_w * from->pixel;
    source += first * from->channel + t->image;
    for (int64_t phase = 0; phase < phases; phase++) {
        const int64_t h0 = t->top * p->stride_h + phase / p->phases_w - p->pad_h;
        const int64_t w0 = t->left * p->stride_w + phase % p->phases_w - p->pad_w;
        /* the positions [low, high) of a row lie inside the image */
        int64_t low = w0 < 0 ? (p->stride_w - 1 - w0) / p->stride_w : 0;
        int64_t high = w0 < p->width ? (p->width - w0 + p->stride_w - 1) / p->stride_w : 0;
        high = high < p->buffer_w ? high : p->buffer_w;
        low = low < high ? low : high;
        for (int64_t n = 0; n < (from->channel < from->pixel ? 1 : last - first); n++)
            for (int64_t i = 0; i < p->buffer_h; i++) {
                const int64_t h = h0 + i * p->stride_h, within = h >= 0 && h < p->height;
                float *row = to + (n * phases + phase) * plane + i * p->buffer_w * lanes;
                const float *pixel = source + n * from->channel + h * from->row + w0 * from->pixel;
                if (from->channel < from->pixel)
                    for (int64_t j = 0; j < p->buffer_w; j++)
                        FN(copy_pixels)(within && j >= low && j < high ? pixel + j * step : NULL,
                                        from->channel, f, first, 1, t->count, lanes, last - first, row + j * lanes,
                                        phases * plane);
                else {
                    const int64_t begin = within ? low : 0, end = within ? high : 0;
                    FN(clear)(row, begin * lanes);
                    FN(copy_pixels)(pixel + begin * step, step, f, first + n, 0, t->count, lanes, end - begin,
                                    row + begin * lanes, lanes);
                    FN(clear)(row + end * lanes, (p->buffer_w - end) * lanes);
                }
            }
    }
    FN(clear)(to + (last - first) * phases * plane, VL); /* the last vector of the last row may run past it */
}

static int64_t FN(first_pixel)(int64_t phase, int64_t shift, int64_t step) {
    return ((phase - shift) % step + step) % step;
}

/* Where the first position of a row lies in the target. */
static int64_t FN(row_start)(const pass *p, const images *to, int64_t row) {
    const int64_t phases = p->step_h * p->step_w, phase = row % phases;
    return row / phases * to->channel + FN(first_pixel)(phase / p->step_w, p->shift_h, p->step_h) * to->row +
           FN(first_pixel)(phase % p->step_w, p->shift_w, p->step_w) * to->pixel;
}

/* Copy a row's part of a tile that is not whole: from `own` to the target, or from there. */
INLINE void FN(exchange)(const pass *p, const tile *t, int64_t row, float *own, float *target, const images *to,
                         const int out) {
    const int64_t phases = p->step_h * p->step_w, phase = row % phases, wide = round_up(p->tile_w * p->lanes, VL);
    const int64_t h0 = FN(first_pixel)(phase / p->step_w, p->shift_h, p->step_h);
    const int64_t w0 = FN(first_pixel)(phase % p->step_w, p->shift_w, p->step_w);
    for (int64_t i = 0; i < p->tile_h; i++, own += wide) {
        const int64_t h = h0 + (t->top + i) * p->step_h;
        for (int64_t j = 0; j < p->tile_w; j++) {
            const int64_t w = w0 + (t->left + j) * p->step_w;
            const int inside = h < p->out_height && w < p->out_width;
            float *pixel = target + row / phases * to->channel + h * to->row + w * to->pixel + t->image;
            if (!out) FN(copy_pixel)(pixel, inside ? t->count : 0, p->lanes, own + j * p->lanes);
            else if (inside) FN(copy_pixel)(own + j * p->lanes, t->count, t->count, pixel);
        }
        if (!out) FN(clear)(own + p->tile_w * p->lanes, wide - p->tile_w * p->lanes);
    }
}

/* ---- sums of products: R rows of Q vectors in registers ---------------------------------------------------------- */

#define block_of FN(block_of)
typedef struct {
    const visit *visit, *end;
    const int32_t *place;
    const float *buffer;
    int64_t wide;        /* floats from row to row of the buffer */
    const float *value, *bias;
    float *own;          /* the tile of each row of the target */
    float *target;       /* of whole tiles, otherwise NULL */
    const int64_t *row_start, *vector_start;
    float *gradient;
    int64_t parts;
} block_of;

#define TILE_MOST 16 /* vectors */
#define AHEAD 4      /* visits between the prefetch of a row of the target and its use */

/* GCC would load all vectors of the largest tiles before the first product, one more than NEON's registers hold. */
#undef LOADS_END
#if defined(__aarch64__) && !defined(__clang__)
#define LOADS_END __asm__ volatile("" ::: "memory")
#else
#define LOADS_END (void)0
#endif

/* own = (bias or own) + weights * buffer, for the rows of a block's visits; a row's last visit moves it to the target.
 * With few vectors there are `chains` partial sums, so that an addition need not wait for the one before. One loop runs
 * over all sums: clang keeps them in registers only if no index is made of the counters of several loops. */
INLINE void FN(multiply_block)(const int R, const int Q, const int chains, const block_of *b) {
    const int T = R * Q;
    for (const visit *v = b->visit; v < b->end; v++) {
        float *own = b->own + (int64_t)v->row * T * VL;
        const int32_t *place = b->place + v->first;
        const float *value = b->value + v->first;
        const int64_t n = v->count;
        vec sum[TILE_MOST];
        if (b->target && v + AHEAD < b->end && v[AHEAD].ends & 2) {
            const float *to = b->target + b->row_start[v[AHEAD].row];
            UNROLL for (int t = 0; t < T; t++) __builtin_prefetch(to + b->vector_start[t], 1, 2);
        }
        if (v->ends & 1) {
            const vec bias = SPLAT(b->bias ? b->bias[v->row] : 0.0f);
            UNROLL for (int t = 0; t < T; t++) sum[t] = bias;
        } else
            UNROLL for (int t = 0; t < T; t++) sum[t] = LOAD(own + t * VL);
        UNROLL for (int t = T; t < T * chains; t++) sum[t] = (vec){0};
        const float *row[4];
        UNROLL for (int r = 0; r < R; r++) row[r] = b->buffer + r * b->wide;
        int64_t j = 0;
        for (; j + chains <= n; j += chains) {
            int64_t at[8];
            vec weight[8];
            UNROLL for (int c = 0; c < chains; c++) at[c] = place[j + c], weight[c] = SPLAT(value[j + c]);
            UNROLL for (int t = 0; t < T * chains; t++) {
                if (T == TILE_MOST && t == T / 2) LOADS_END;
                sum[t] += weight[t / T] * LOAD(row[t % T / Q] + at[t / T] + t % Q * VL);
            }
        }
        for (; chains > 1 && j < n; j++) {
            const vec weight = SPLAT(value[j]);
            UNROLL for (int t = 0; t < T; t++) sum[t] += weight * LOAD(row[t / Q] + place[j] + t % Q * VL);
        }
        UNROLL for (int t = T; t < T * chains; t++) sum[t % T] += sum[t];
        if (v->ends & 2 && b->target) {
            float *to = b->target + b->row_start[v->row];
            UNROLL for (int t = 0; t < T; t++) STORE(to + b->vector_start[t], sum[t]);
        } else
            UNROLL for (int t = 0; t < T; t++) STORE(own + t * VL, sum[t]);
    }
}

/* to[j] += the products of a row's tile with what weight j reads, j < J, in 8 / J partial sums. */
INLINE void FN(dots)(const int R, const int Q, const int J, const vec *d, const float *buffer, int64_t wide,
                     const int32_t *place, float *to) {
    const int chains = 8 / J;
    vec acc[8];
    UNROLL for (int i = 0; i < 8; i++) acc[i] = (vec){0};
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int q = 0; q < Q; q++)
            UNROLL for (int j = 0; j < J; j++)
                acc[j + (r * Q + q) % chains * J] += d[r * Q + q] * LOAD(buffer + place[j] + r * wide + q * VL);
    UNROLL for (int i = J; i < 8; i++) {
        acc[i % J] += acc[i];
        acc[i] = (vec){0};
    }
    float sum[8];
    FN(sum_lanes)(acc, sum);
    UNROLL for (int j = 0; j < J; j++) to[j] += sum[j];
}

INLINE void FN(correlate_block)(const int R, const int Q, const block_of *b) {
    const int T = R * Q;
    for (const visit *v = b->visit; v < b->end; v += b->parts) {
        const float *own = b->own + (int64_t)v->row * T * VL;
        const int32_t *place = b->place + v->first;
        float *to = b->gradient + v->first;
        const int64_t n = v->count;
        vec d[TILE_MOST];
        UNROLL for (int t = 0; t < T; t++) d[t] = LOAD(own + t * VL);
        int64_t j = 0;
        for (; j + 8 <= n; j += 8) FN(dots)(R, Q, 8, d, b->buffer, b->wide, place + j, to + j);
        if (j + 4 <= n) FN(dots)(R, Q, 4, d, b->buffer, b->wide, place + j, to + j), j += 4;
        if (j + 2 <= n) FN(dots)(R, Q, 2, d, b->buffer, b->wide, place + j, to + j), j += 2;
        if (j < n) FN(dots)(R, Q, 1, d, b->buffer, b->wide, place + j, to + j);
    }
}

/* The tiles that are compiled. Wide tiles need 16 registers for sums and some more; geometry.py knows both lists. */
#define NARROW_TILES(f)                                                                           \
    f(1, 1) f(1, 2) f(1, 3) f(1, 4) f(1, 5) f(1, 6) f(1, 7) f(1, 8) f(2, 1) f(2, 2) f(2, 3) f(2, 4) \
    f(4, 1) f(4, 2)
#define WIDE_TILES(f) NARROW_TILES(f) f(2, 5) f(2, 6) f(2, 7) f(2, 8) f(3, 5) f(4, 3) f(4, 4)
#undef TILES
#if REGISTERS >= 32
#define TILES(f) WIDE_TILES(f)
#else
#define TILES(f) NARROW_TILES(f)
#endif
#define CHAINS(R, Q) ((R) * (Q) >= 5 ? 1 : (R) * (Q) >= 3 ? 2 : (R) * (Q) == 2 ? 4 : 8)

#define DEFINE(R, Q)                                                                                          \
    static void FN(multiply_##R##x##Q)(const block_of *b) { FN(multiply_block)(R, Q, CHAINS(R, Q), b); }      \
    static void FN(correlate_##R##x##Q)(const block_of *b) { FN(correlate_block)(R, Q, b); }
TILES(DEFINE)
#undef DEFINE

#define loop FN(loop)
typedef void (*loop)(const block_of *);

static loop FN(multiply_loop)(int64_t R, int64_t Q) {
#define CASE(r, q) if (R == r && Q == q) return FN(multiply_##r##x##q);
    TILES(CASE)
#undef CASE
    return NULL;
}

static loop FN(correlate_loop)(int64_t R, int64_t Q) {
#define CASE(r, q) if (R == r && Q == q) return FN(correlate_##r##x##q);
    TILES(CASE)
#undef CASE
    return NULL;
}

/* ---- whole layers ------------------------------------------------------------------------------------------------ */

/* Where rows and vectors of a tile begin in the target, and a thread's memory. */
#define memory FN(memory)
typedef struct {
    int64_t *row_start, vector_start[TILE_MOST], Q, T;
    float *buffer, *own;
} memory;

static memory FN(divide)(const pass *p, const images *to, float *work) {
    const int64_t channel = p->phases_h * p->phases_w * p->buffer_h * p->buffer_w * p->lanes;
    memory m = {.row_start = (int64_t *)work, .Q = (p->tile_w * p->lanes + VL - 1) / VL};
    m.T = p->tile_h * m.Q;
    m.buffer = work + round_up(2 * p->rows, 16);
    m.own = m.buffer + round_up(p->block * channel + 2 * VL, 16);
    for (int64_t r = 0; r < p->rows; r++) m.row_start[r] = FN(row_start)(p, to, r);
    for (int64_t t = 0; t < m.T; t++) {
        const int64_t lane = t % m.Q * VL;
        m.vector_start[t] = t / m.Q * p->step_h * to->row + lane / p->lanes * p->step_w * to->pixel + lane % p->lanes;
    }
    return m;
}

static const float *FN(tile_start)(const pass *p, const tile *t, const float *target, const images *to) {
    return target + t->top * p->step_h * to->row + t->left * p->step_w * to->pixel + t->image;
}

static void FN(multiply)(const pass *p, const lists *l, const float *value, const float *bias, const float *source,
                         const images *from, const affine *f, int64_t first, int64_t last, float *target,
                         const images *to, float *work) {
    const memory m = FN(divide)(p, to, work);
    const loop compute = FN(multiply_loop)(p->tile_h, m.Q);
    block_of b = {.place = l->place, .buffer = m.buffer, .wide = p->buffer_w * p->lanes, .value = value, .bias = bias,
                  .own = m.own, .row_start = m.row_start, .vector_start = m.vector_start};
    for (int64_t index = first; index < last; index++) {
        const tile t = FN(tile_at)(p, index);
        b.target = t.whole ? (float *)FN(tile_start)(p, &t, target, to) : NULL;
        for (int64_t n = 0; n < p->blocks; n++) {
            b.visit = l->visits + l->block_start[n], b.end = l->visits + l->block_start[n + 1];
            if (b.visit == b.end) continue;
            const int64_t end = (n + 1) * p->block < p->channels ? (n + 1) * p->block : p->channels;
            FN(fill_buffer)(p, &t, source, from, f, n * p->block, end, m.buffer);
            compute(&b);
        }
        for (int64_t r = 0; !t.whole && r < p->rows; r++) FN(exchange)(p, &t, r, m.own + r * m.T * VL, target, to, 1);
    }
}

static void FN(correlate)(const pass *p, const lists *l, const float *source, const images *from, const affine *f,
                          const float *target, const images *to, int64_t part, int64_t parts, float *gradient,
                          float *work) {
    const memory m = FN(divide)(p, to, work);
    const loop compute = FN(correlate_loop)(p->tile_h, m.Q);
    block_of b = {.place = l->place, .buffer = m.buffer, .wide = p->buffer_w * p->lanes, .own = m.own,
                  .gradient = gradient, .parts = parts};
    for (int64_t index = 0; index < FN(tiles)(p); index++) {
        const tile t = FN(tile_at)(p, index);
        const float *start = FN(tile_start)(p, &t, target, to);
        for (int64_t r = 0; r < p->rows; r++) {
            float *own = m.own + r * m.T * VL;
            const float *row = start + m.row_start[r];
            if (!t.whole) FN(exchange)(p, &t, r, own, (float *)target, to, 0);
            else for (int64_t i = 0; i < m.T; i++) STORE(own + i * VL, LOAD(row + m.vector_start[i]));
        }
        for (int64_t n = 0; n < p->blocks; n++) {
            b.visit = l->visits + l->block_start[n] + part, b.end = l->visits + l->block_start[n + 1];
            if (b.visit >= b.end) continue;
            const int64_t end = (n + 1) * p->block < p->channels ? (n + 1) * p->block : p->channels;
            FN(fill_buffer)(p, &t, source, from, f, n * p->block, end, m.buffer);
            compute(&b);
        }
    }
}

#undef tile
#undef block_of
#undef loop
#undef memory
