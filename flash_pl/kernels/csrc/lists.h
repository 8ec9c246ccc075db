/* Lists of a layer's active weights in the order of a pass. */
#ifndef FLASH_PL_LISTS_H
#define FLASH_PL_LISTS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

/* A layer's weights: [outputs][inputs of a group][positions of the kernel]. */
typedef struct {
    int64_t outputs, inputs, groups, positions;
    int64_t backward;        /* whether the lists are for the backward pass */
    const int32_t *row;      /* of each position of the kernel: the phase of the target that it adds to */
    const int32_t *place;    /* of each position of the kernel: where it reads in the buffer of a source channel */
} layer;

/* Call `body` for each active weight of the mask: input `i` of output `o` and its group `g`, position `k`. */
#define EACH_ACTIVE(s, mask, body)                                                             \
    for (int64_t o = 0; o < (s)->outputs; o++) {                                               \
        const int64_t wide_ = (s)->inputs * (s)->positions, g = o * (s)->groups / (s)->outputs; \
        const uint8_t *active_ = (mask) + o * wide_;                                           \
        for (int64_t at_ = 0; at_ < wide_;) {                                                  \
            const int64_t stop_ = at_ + 8 < wide_ ? at_ + 8 : wide_;                           \
            uint64_t eight_ = 1;                                                               \
            if (stop_ == at_ + 8) memcpy(&eight_, active_ + at_, 8);                           \
            if (!eight_) at_ = stop_;                                                          \
            for (; at_ < stop_; at_++)                                                         \
                if (active_[at_]) {                                                            \
                    const uint32_t i = (uint32_t)at_ / (uint32_t)(s)->positions;               \
                    const int64_t k = at_ - (int64_t)i * (s)->positions;                       \
                    (void)g;                                                                   \
                    body                                                                       \
                }                                                                              \
        }                                                                                      \
    }

/* Fill the lists; `number` is each weight's number among the mask's active weights. Returns 0 if memory is short.
 *
 * Rows with the same number of weights follow each other within a block, so that the processor foresees where each
 * row's loop ends.
 */
static int fill_lists(const layer *s, const pass *p, const uint8_t *mask, visit *visits, int32_t *block_start,
                      int32_t *place, int32_t *number) {
    const int64_t rows = p->rows, size = p->blocks * rows, phases = p->step_h * p->step_w;
    const int64_t channel = p->phases_h * p->phases_w * p->buffer_h * p->buffer_w * p->lanes;
    int32_t *count = calloc((size_t)(size + 2 * rows), sizeof(int32_t)), *first = count + size, *last = first + rows;
    if (!count) return 0;
#define ROW (s->backward ? (g * s->inputs + i) * phases + s->row[k] : o)
#define SOURCE (s->backward ? o : g * s->inputs + i)
    EACH_ACTIVE(s, mask, count[SOURCE / p->block * rows + ROW]++;)
    int64_t longest = 0;
    for (int64_t r = 0; r < rows; r++) first[r] = last[r] = -1;
    for (int64_t b = 0; b < p->blocks; b++)
        for (int64_t r = 0; r < rows; r++)
            if (count[b * rows + r]) {
                if (first[r] < 0) first[r] = (int32_t)b;
                last[r] = (int32_t)b;
                if (count[b * rows + r] > longest) longest = count[b * rows + r];
            }
    int32_t *bucket = malloc((size_t)(longest + 2) * sizeof(int32_t)), visited = 0, used = 0;
    if (!bucket) {
        free(count);
        return 0;
    }
    for (int64_t b = 0; b < p->blocks; b++) {
        int32_t *counts = count + b * rows;
        memset(bucket, 0, (size_t)(longest + 2) * sizeof(int32_t));
        for (int64_t r = 0; r < rows; r++) bucket[longest - counts[r] + 1]++;
        for (int64_t n = 0; n <= longest; n++) bucket[n + 1] += bucket[n];
        block_start[b] = visited;
        int32_t found = 0;
        for (int64_t r = 0; r < rows; r++) {
            const int alone = b == 0 && first[r] < 0; /* a row without weights has one visit, for its bias */
            if (!counts[r] && !alone) continue;
            const int32_t ends = alone ? 3 : (first[r] == b) | (last[r] == b) << 1;
            visits[visited + bucket[longest - counts[r]]++] = (visit){(int32_t)r, 0, counts[r], ends};
            found++;
        }
        for (; found; found--, visited++) {
            visits[visited].first = counts[visits[visited].row] = used; /* from now on where the next weight goes */
            used += visits[visited].count;
        }
    }
    block_start[p->blocks] = visited;
    int32_t n = 0;
    EACH_ACTIVE(s, mask, {
        const int64_t source = SOURCE;
        const int32_t j = count[source / p->block * rows + ROW]++;
        place[j] = (int32_t)(source % p->block * channel + s->place[k]);
        number[j] = n++;
    })
    free(bucket);
    free(count);
    return 1;
#undef ROW
#undef SOURCE
}

#endif
