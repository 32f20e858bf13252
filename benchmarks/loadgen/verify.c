/* Each sector's contents follow from its number, how often it was written in this run, and the seed. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { WORDS = SECTOR / sizeof(uint64_t) };

static uint32_t *generations;       /* of each sector; 0: not written yet, contents unknown */
static uint64_t seed;

void verify_start(uint64_t sectors, uint64_t run_seed)
{
    if (generations)
        return;
    seed = run_seed;
    /* For the whole disk; only what is touched takes memory. */
    generations = mmap(NULL, sectors * sizeof *generations, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (generations == MAP_FAILED)
        die("--verify: %s", strerror(errno));
}

/* The first two words can be read by eye, the others differ in every generation of every sector. */
static void pattern(uint64_t words[WORDS], uint64_t sector)
{
    uint32_t generation = generations[sector];
    uint64_t word = mix(mix(seed + sector) + generation);
    words[0] = sector;
    words[1] = generation;
    for (unsigned i = 2; i < WORDS; i++)
        words[i] = word += UINT64_C(0x9e3779b97f4a7c15);
}

void verify_fill(uint8_t *data, uint64_t sector)
{
    generations[sector]++;
    pattern((uint64_t *)data, sector);
}

bool verify_known(uint64_t sector)
{
    return generations[sector] != 0;
}

bool verify_compare(const uint8_t *data, uint64_t sector)
{
    static bool described;
    uint64_t expected[WORDS], found[WORDS];
    if (!verify_known(sector))
        return true;
    pattern(expected, sector);
    memcpy(found, data, sizeof found);
    if (memcmp(expected, found, sizeof found) == 0)
        return true;
    unsigned word = 0;
    while (expected[word] == found[word])
        word++;
    if (!described)
        fprintf(stderr, "loadgen: sector %" PRIu64 " generation %" PRIu64 ": word %u is %#" PRIx64
                ", not %#" PRIx64 "; it begins with sector %#" PRIx64 " generation %#" PRIx64 "\n",
                expected[0], expected[1], word, found[word], expected[word], found[0], found[1]);
    described = true;
    return false;
}
