/* Runs the cases of a file written by compilers.py on the kernels: compilers CASES ISA. A line for each wrong result.
 *
 * A case is its kind, its number of arrays, and of each array the bytes and the data. Results lie between guards, are
 * filled with UNWRITTEN before, and must be so where the expected result is.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native.c"

#define UNWRITTEN (-12345.5f)
#define MOST_ARRAYS 20
#define GUARD 32 /* floats */

static struct {
    char kind[16];
    int64_t number, bytes[MOST_ARRAYS];
    void *array[MOST_ARRAYS];
} now;
static int64_t failed;
static double largest; /* error, of what is allowed */

static void fail(const char *what, int64_t at, double result, double expected) {
    printf("case %lld, %s: %s[%lld] is %.9g instead of %.9g\n", (long long)now.number, now.kind, what, (long long)at,
           result, expected);
    failed++;
}

/* Array `i`, or NULL if it is empty. */
static void *get(int i) { return now.bytes[i] ? now.array[i] : NULL; }
static int64_t length(int i) { return now.bytes[i] / 4; }

/* Memory for floats between two guards; 32-bit integers have the same size. */
static float *new_floats(int64_t count) {
    float *all = malloc((size_t)(count + 2 * GUARD) * sizeof(float));
    for (int64_t i = 0; i < count + 2 * GUARD; i++) all[i] = UNWRITTEN;
    return all + GUARD;
}

static void free_floats(float *floats) { free(floats - GUARD); }

static void check_guards(const char *what, const float *result, int64_t count) {
    for (int64_t i = 1; i <= GUARD; i++) {
        if (result[-i] != UNWRITTEN) return fail(what, -i, result[-i], UNWRITTEN);
        if (result[count - 1 + i] != UNWRITTEN) return fail(what, count - 1 + i, result[count - 1 + i], UNWRITTEN);
    }
}

/* Compare with array `i` and free the result; errors of up to `tolerance` (1 + the largest expected number). */
static void check(const char *what, float *result, int i, double tolerance) {
    const float *expected = now.array[i];
    const int64_t count = length(i);
    double most = 0;
    for (int64_t k = 0; k < count; k++)
        if (expected[k] != UNWRITTEN && fabs(expected[k]) > most) most = fabs(expected[k]);
    check_guards(what, result, count);
    for (int64_t k = 0; k < count; k++) {
        const double error = fabs((double)result[k] - expected[k]), allowed = tolerance * (1 + most);
        if (isnan(result[k]) && isnan(expected[k])) continue;
        if (expected[k] == UNWRITTEN ? result[k] != UNWRITTEN : !(error <= allowed)) {
            fail(what, k, result[k], expected[k]);
            break;
        }
        if (allowed > 0 && error / allowed > largest) largest = error / allowed;
    }
    free_floats(result);
}

static void check_bytes(const char *what, const void *result, int i) {
    for (int64_t k = 0; k < now.bytes[i]; k++)
        if (((const uint8_t *)result)[k] != ((const uint8_t *)now.array[i])[k])
            return fail(what, k, ((const uint8_t *)result)[k], ((const uint8_t *)now.array[i])[k]);
}

/* ---- convolutions: arrays 0 to 13 are inputs, the result follows --------------------------------------------------- */

typedef struct {
    const pass *p;
    lists l;
    int32_t *visits, *block_start, *place, *number;
    int64_t count, tiles, scratch, first; /* active weights, tiles, floats of a thread, first image */
    affine function; /* of the source, if there is one */
    float *in_order, *work;
} convolution;

static convolution start_convolution(void) {
    convolution c = {.p = get(0), .count = length(6)};
    const int64_t *sizes = get(1), *places = get(13);
    const layer s = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], get(2), get(3)};
    c.tiles = places[0], c.scratch = places[1], c.first = places[2];
    c.visits = (int32_t *)new_floats(4 * c.p->blocks * c.p->rows);
    c.block_start = (int32_t *)new_floats(c.p->blocks + 1);
    c.place = (int32_t *)new_floats(c.count), c.number = (int32_t *)new_floats(c.count);
    if (!flash_pl_lists(&s, c.p, get(4), (visit *)c.visits, c.block_start, c.place, c.number)) abort();
    check_guards("visits", (float *)c.visits, 4 * c.p->blocks * c.p->rows);
    check_guards("block_start", (float *)c.block_start, c.p->blocks + 1);
    check_guards("place", (float *)c.place, c.count);
    check_guards("number", (float *)c.number, c.count);
    c.l = (lists){(visit *)c.visits, c.block_start, c.place};
    float *value = new_floats(c.count);
    c.in_order = new_floats(c.count), c.work = new_floats(c.scratch);
    flash_pl_gather(get(5), get(6), c.count, value);
    flash_pl_gather(value, c.number, c.count, c.in_order);
    free_floats(value);
    if (now.bytes[10]) {
        const float *center = get(10);
        const int64_t channels = (length(10) - 2) / 3;
        c.function = (affine){center, center + channels, center + 2 * channels, center[3 * channels], center[3 * channels + 1]};
    }
    return c;
}

static void end_convolution(convolution *c) {
    check_guards("work", c->work, c->scratch);
    free_floats((float *)c->visits), free_floats((float *)c->block_start), free_floats((float *)c->place);
    free_floats((float *)c->number), free_floats(c->in_order), free_floats(c->work);
}

/* 7: bias, 8: source, 9: its order, 10: function of the source, 11: target, 12: its order */
static void run_multiply(void) {
    convolution c = start_convolution();
    float *target = new_floats(length(14));
    const int64_t half = c.tiles / 2;
    for (int i = 0; i < 2; i++) {
        memset(c.work, 0xff, (size_t)c.scratch * sizeof(float)); /* NaN */
        flash_pl_multiply(c.p, &c.l, c.in_order, get(7), (const float *)now.array[8] + c.first, get(9),
                          now.bytes[10] ? &c.function : NULL, i ? half : 0, i ? c.tiles : half, target + c.first,
                          get(12), c.work);
    }
    check("target", target, 14, 4e-6);
    end_convolution(&c);
}

static void run_correlate(void) {
    convolution c = start_convolution();
    float *by_number = new_floats(c.count), *dense = new_floats(length(14)), *sums = new_floats(c.count);
    for (int64_t i = 0; i < c.count; i++) sums[i] = by_number[i] = 0;
    for (int64_t i = 0; i < length(14); i++) dense[i] = 0;
    for (int64_t part = 0; part < 3; part++) {
        memset(c.work, 0xff, (size_t)c.scratch * sizeof(float));
        flash_pl_correlate(c.p, &c.l, (const float *)now.array[8] + c.first, get(9), now.bytes[10] ? &c.function : NULL,
                           (const float *)now.array[11] + c.first, get(12), part, 3, sums, c.work);
    }
    check_guards("sums", sums, c.count);
    flash_pl_scatter_add(sums, c.number, c.count, by_number);
    flash_pl_scatter(by_number, get(6), c.count, dense);
    check("gradient", dense, 14, 2e-5); /* up to 30,000 terms */
    free_floats(by_number), free_floats(sums);
    end_convolution(&c);
}

/* ---- the other functions; channels are computed in two ranges -------------------------------------------------------- */

static void run_update(void) {
    float *weight = new_floats(length(0));
    const float *rates = get(3);
    memcpy(weight, now.array[0], (size_t)now.bytes[0]);
    flash_pl_update(weight, get(1), get(2), length(1), rates[0], rates[1]);
    check("weight", weight, 4, 1e-6);
}

static void run_interleave(void) {
    const int64_t *s = get(1);
    float *to = new_floats(length(2));
    flash_pl_interleave(now.array[0], s[0], s[1], s[2], s[3], s[4], to);
    check("images", to, 2, 0);
    to = new_floats(length(0));
    flash_pl_separate(now.array[2], s[0], s[1], s[2], s[3], s[4], to);
    check("separate", to, 0, 0);
}

/* 0: window, 1: x, 2: dy, 3: y, 4: from, 5: dx */
static void run_pool(void) {
    const window *w = get(0);
    float *y = new_floats(length(3)), *dx = new_floats(length(5));
    uint8_t *from = malloc((size_t)now.bytes[4]);
    for (int64_t i = 0; i < 2; i++) {
        const int64_t first = i ? w->channels / 2 : 0, last = i ? w->channels : w->channels / 2;
        flash_pl_pool_forward(w, get(1), first, last, y, from);
        flash_pl_pool_backward(w, get(2), get(4), first, last, dx);
    }
    check("y", y, 3, 0);
    check_bytes("from", from, 4);
    check("dx", dx, 5, 1e-6);
    free(from);
}

/* 0: norm, 1: x, 2: mean, 3: variance, 4: sum */
static void run_moments(void) {
    const norm *n = get(0);
    float *mean = new_floats(n->channels), *variance = new_floats(n->channels), *sum = new_floats(n->channels);
    for (int64_t i = 0; i < 2; i++) {
        const int64_t first = i ? n->channels / 2 : 0, last = i ? n->channels : n->channels / 2;
        flash_pl_moments(n, get(1), first, last, mean, variance);
        flash_pl_totals(n, get(1), first, last, sum);
    }
    check("mean", mean, 2, 1e-6);
    check("variance", variance, 3, 2e-6);
    check("sum", sum, 4, 2e-6);
}

/* 0: norm, 1: x, 2 to 5: weight, bias, mean, variance, 6: added or empty, 7: y, 8: dy, 9: dx, 10: dadded, 11: dweight,
 * 12: dbias */
static void run_norm(void) {
    const norm *n = get(0);
    const float *x = get(1), *weight = get(2), *bias = get(3), *mean = get(4), *variance = get(5), *added = get(6);
    float *y = new_floats(length(7)), *dx = new_floats(length(9)), *alone = new_floats(length(9));
    float *dadded = new_floats(length(10)), *dweight = new_floats(n->channels), *dbias = new_floats(n->channels);
    for (int64_t i = 0; i < 2; i++) {
        const int64_t first = i ? n->channels / 2 : 0, last = i ? n->channels : n->channels / 2;
        flash_pl_norm_forward(n, x, weight, bias, mean, variance, added, first, last, y);
        const float *result = added ? get(7) : NULL;
        flash_pl_norm_backward(n, x, result, get(8), weight, bias, mean, variance, first, last, alone, NULL, dweight, dbias);
        flash_pl_norm_backward(n, x, result, get(8), weight, bias, mean, variance, first, last, NULL, NULL, dweight, dbias);
        flash_pl_norm_backward(n, x, result, get(8), weight, bias, mean, variance, first, last, dx, dadded, dweight, dbias);
    }
    check("y", y, 7, 2e-6);
    check("dx", dx, 9, 4e-6);
    check("dx alone", alone, 9, 4e-6);
    check("dadded", dadded, 10, 0);
    check("dweight", dweight, 11, 4e-6);
    check("dbias", dbias, 12, 4e-6);
}

/* 0: state, 1: left, count, wanted, 2: numbers, 3: state afterwards, 4: left afterwards */
static void run_draw(void) {
    const int64_t *sizes = get(1);
    int64_t left = sizes[0];
    uint32_t *numbers = malloc((size_t)now.bytes[2] + 1);
    flash_pl_draw(get(0), &left, sizes[1], sizes[2], numbers);
    check_bytes("numbers", numbers, 2);
    check_bytes("state", get(0), 3);
    check_bytes("left", &left, 4);
    free(numbers);
}

static const struct {
    const char *name;
    void (*run)(void);
} kinds[] = {{"multiply", run_multiply}, {"correlate", run_correlate}, {"update", run_update},
             {"interleave", run_interleave}, {"pool", run_pool}, {"moments", run_moments},
             {"norm", run_norm}, {"draw", run_draw}};

static void read_all(FILE *file, void *to, int64_t bytes) {
    if (fread(to, 1, (size_t)bytes, file) != (size_t)bytes) {
        fputs("the file of cases ends too early\n", stderr);
        exit(2);
    }
}

int main(int count, char **arguments) {
    FILE *file = count == 3 ? fopen(arguments[1], "rb") : NULL;
    int64_t head[2]; /* floats of a vector, registers */
    if (!file) return fputs("usage: compilers CASES ISA\n", stderr), 2;
    if (!flash_pl_use(arguments[2])) return puts("not an instruction set of this machine"), 3;
    read_all(file, head, sizeof head);
    if (head[0] != flash_pl_vector() || head[1] != flash_pl_registers())
        return fprintf(stderr, "the cases are for %d floats a vector and %d registers, the kernels have %d and %d\n",
                       (int)head[0], (int)head[1], flash_pl_vector(), flash_pl_registers()), 2;
    for (; fread(now.kind, 1, sizeof now.kind, file) == sizeof now.kind; now.number++) {
        int64_t arrays;
        read_all(file, &arrays, sizeof arrays);
        if (arrays > MOST_ARRAYS) return fputs("too many arrays\n", stderr), 2;
        for (int64_t i = 0; i < arrays; i++) {
            read_all(file, &now.bytes[i], sizeof now.bytes[i]);
            now.array[i] = malloc((size_t)now.bytes[i] + !now.bytes[i]);
            read_all(file, now.array[i], now.bytes[i]);
        }
        size_t kind = 0;
        while (kind < sizeof kinds / sizeof *kinds && strcmp(kinds[kind].name, now.kind)) kind++;
        if (kind == sizeof kinds / sizeof *kinds) return fprintf(stderr, "unknown kind %s\n", now.kind), 2;
        kinds[kind].run();
        for (int64_t i = 0; i < arrays; i++) free(now.array[i]);
    }
    printf("%lld cases, %lld wrong results, largest error %.2f of what is allowed\n", (long long)now.number,
           (long long)failed, largest);
    return failed != 0;
}
