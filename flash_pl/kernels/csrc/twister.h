/* Numbers of a Mersenne Twister, mt19937 (Matsumoto and Nishimura, ACM TOMACS 8, 1998). */
#ifndef FLASH_PL_TWISTER_H
#define FLASH_PL_TWISTER_H

#include <stdint.h>

#define TWISTER_WORDS 624
#define TWISTER_SHIFT 397

static inline uint32_t twisted(uint32_t upper, uint32_t lower, uint32_t from) {
    const uint32_t y = (upper & 0x80000000u) | (lower & 0x7fffffffu);
    return from ^ (y >> 1) ^ ((0u - (lower & 1u)) & 0x9908b0dfu);
}

/* The next 624 words. No word depends on one of the 226 before it, so the compiler makes vectors of the loops. */
static void twist(uint32_t *s) {
    const int n = TWISTER_WORDS, m = TWISTER_SHIFT;
    for (int i = 0; i < n - m; i++) s[i] = twisted(s[i], s[i + 1], s[i + m]);
    for (int i = n - m; i < n - 1; i++) s[i] = twisted(s[i], s[i + 1], s[i + m - n]);
    s[n - 1] = twisted(s[n - 1], s[0], s[m - 1]);
}

static inline uint32_t tempered(uint32_t y) {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* Draw `count` numbers and store the first `wanted` of them; the others need no tempering. `left` of the state's words
 * have not been drawn yet. */
static void draw(uint32_t *state, int64_t *left, int64_t count, int64_t wanted, uint32_t *numbers) {
    while (count > 0) {
        if (!*left) {
            twist(state);
            *left = TWISTER_WORDS;
        }
        const uint32_t *next = state + TWISTER_WORDS - *left;
        const int64_t drawn = count < *left ? count : *left, stored = drawn < wanted ? drawn : wanted;
        for (int64_t i = 0; i < stored; i++) numbers[i] = tempered(next[i]);
        numbers += stored, wanted -= stored, count -= drawn, *left -= drawn;
    }
}

#endif
