/* The virtio-blk driver: split rings (virtio 1.3 §2.7) worked as Linux works them.
 * Each request has a fixed slot: header, status, indirect table, data, and its descriptors in the
 * ring; they are written anew for every request, as a real driver does.
 */
#define _GNU_SOURCE
#include "loadgen.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* virtio 1.3 §5.2.6 */
enum { BLK_T_IN = 0, BLK_T_OUT = 1 };
enum { STATUS_OK = 0, STATUS_IOERR = 1, STATUS_UNSUPP = 2, STATUS_UNWRITTEN = 0xff };
enum { META_SIZE = 64 };        /* a slot's header and status share a cache line */

struct meta {
    uint32_t type, ioprio;
    uint64_t sector;
    volatile uint8_t status;
};

/* How a request of some size looks. */
struct shape {
    uint32_t bs, segment, segments;
    uint32_t descriptors;       /* header, data, status */
    uint32_t ring_descriptors;  /* of those in the ring: one, if they are in an indirect table */
};

struct slot {
    bool busy, write;
    uint64_t block;
    uint64_t started;
};

struct driver {
    struct frontend *fe;
    const struct options *opt;
    const struct job *job;
    struct result *result;
    struct shape shape;
    uint64_t blocks;            /* of the job's block size, in the used part of the disk */
    uint64_t random;
    uint64_t cursor;
    bool reading_back;
    uint8_t *busy_blocks;       /* verify: no two requests at once on one block */
    struct slot *slots;         /* qd of each queue */
    size_t slot_count;
    uint8_t *slot_memory;
};

/* ---- shape and memory ---- */

static uint32_t divide_up(uint64_t n, uint64_t by)
{
    return (uint32_t)((n + by - 1) / by);
}

static struct shape shape_of(const struct frontend *fe, const struct options *opt, const struct job *job)
{
    const struct blk_config *config = &fe->config;
    struct shape shape = { .bs = job->bs, .segment = job->bs };
    if (opt->segments && job->bs > PAGE)
        shape.segment = PAGE;
    if (has(fe, BLK_F_SEG_MAX) && config->seg_max && divide_up(job->bs, shape.segment) > config->seg_max)
        shape.segment = divide_up(divide_up(job->bs, config->seg_max), PAGE) * PAGE;
    if (has(fe, BLK_F_SIZE_MAX) && config->size_max && shape.segment > config->size_max)
        shape.segment = config->size_max / SECTOR * SECTOR;
    if (shape.segment == 0)
        die("%s: the server takes segments of %u bytes at most", job->text, config->size_max);
    shape.segments = divide_up(job->bs, shape.segment);
    if (has(fe, BLK_F_SEG_MAX) && config->seg_max && shape.segments > config->seg_max)
        die("%s: %u segments, the server takes %u at most", job->text, shape.segments, config->seg_max);
    shape.descriptors = shape.segments + 2;
    shape.ring_descriptors = has(fe, RING_F_INDIRECT_DESC) ? 1 : shape.descriptors;
    return shape;
}

static size_t whole_pages(size_t size)
{
    return divide_up(size, PAGE) * (size_t)PAGE;
}

static size_t table_size(const struct shape *shape)
{
    return shape->descriptors * sizeof(struct desc);
}

static size_t data_size(const struct shape *shape)
{
    return whole_pages((size_t)shape->segments * shape->segment);
}

/* The headers of all slots, then the tables, then the data. */
static size_t data_at(const struct shape *shape, size_t slots)
{
    return whole_pages(slots * (META_SIZE + table_size(shape)));
}

size_t driver_slots_size(const struct frontend *fe, const struct options *opt, const struct job *job)
{
    struct shape shape = shape_of(fe, opt, job);
    size_t slots = (size_t)job->qd * fe->queue_count;
    return data_at(&shape, slots) + slots * data_size(&shape);
}

unsigned driver_ring_size(const struct frontend *fe, const struct options *opt, const struct job *job)
{
    struct shape shape = shape_of(fe, opt, job);
    uint64_t needed = (uint64_t)shape.ring_descriptors * job->qd;
    if (needed < shape.descriptors)     /* no chain may be longer than the ring, indirect or not: §2.7.5.3.1 */
        needed = shape.descriptors;
    unsigned ring = 128;
    while (ring < needed && ring < 32768)
        ring *= 2;
    if (opt->ring ? needed > opt->ring : needed > 1024)
        die("%s needs a ring of %" PRIu64 " descriptors, %s%s", job->text, needed,
            opt->ring ? "--ring has fewer" : "servers take 1024 at most",
            opt->indirect ? "" : "; try --indirect");
    return opt->ring ? opt->ring : ring;
}

static struct meta *meta_of(const struct driver *d, size_t slot)
{
    return (struct meta *)(d->slot_memory + slot * META_SIZE);
}

static struct desc *table_of(const struct driver *d, size_t slot)
{
    return (struct desc *)(d->slot_memory + d->slot_count * META_SIZE + slot * table_size(&d->shape));
}

static uint8_t *data_of(const struct driver *d, size_t slot)
{
    return d->slot_memory + data_at(&d->shape, d->slot_count) + slot * data_size(&d->shape);
}

/* Neighbouring segments change places, so that no server can join them, as pages rarely adjoin in
 * a guest that has been up for a while. */
static uint8_t *segment_of(const struct driver *d, size_t slot, uint32_t segment)
{
    uint32_t place = (segment ^ 1) < d->shape.segments ? segment ^ 1 : segment;
    return data_of(d, slot) + (size_t)place * d->shape.segment;
}

static uint32_t segment_length(const struct shape *shape, uint32_t segment)
{
    uint32_t left = shape->bs - segment * shape->segment;
    return left < shape->segment ? left : shape->segment;
}

static uint8_t *sector_in_slot(const struct driver *d, size_t slot, uint32_t sector)
{
    uint32_t offset = sector * SECTOR;
    return segment_of(d, slot, offset / d->shape.segment) + offset % d->shape.segment;
}

/* ---- what is read and written ---- */

static uint64_t next_random(struct driver *d)
{
    return mix(d->random += UINT64_C(0x9e3779b97f4a7c15));
}

static uint32_t sectors_in(const struct driver *d)
{
    return d->shape.bs / SECTOR;
}

static void fill_block(struct driver *d, size_t slot, uint64_t first)
{
    for (uint32_t s = 0; s < sectors_in(d); s++)
        verify_fill(sector_in_slot(d, slot, s), first + s);
}

/* What a server leaves unwritten must not look right. */
static void poison_block(struct driver *d, size_t slot)
{
    for (uint32_t s = 0; s < sectors_in(d); s++)
        memset(sector_in_slot(d, slot, s), 0xa5, SECTOR);
}

static bool block_known(const struct driver *d, uint64_t first)
{
    for (uint32_t s = 0; s < sectors_in(d); s++)
        if (verify_known(first + s))
            return true;
    return false;
}

static void compare_block(struct driver *d, size_t slot, uint64_t first)
{
    if (!block_known(d, first))
        return;
    bool right = true;
    for (uint32_t s = 0; s < sectors_in(d) && right; s++)
        right = verify_compare(sector_in_slot(d, slot, s), first + s);
    d->result->verified++;
    d->result->errors += !right;
}

static uint64_t pick_block(struct driver *d)
{
    uint64_t block = d->job->random ? next_random(d) % d->blocks : d->cursor++ % d->blocks;
    while (d->busy_blocks && d->busy_blocks[block])
        block = (block + 1) % d->blocks;
    return block;
}

/* The next request into a slot. False: there is none. */
static bool next_request(struct driver *d, struct slot *slot)
{
    if (d->reading_back) {
        while (d->cursor < d->blocks && !block_known(d, d->cursor * sectors_in(d)))
            d->cursor++;
        if (d->cursor == d->blocks)
            return false;
        slot->block = d->cursor++;
        slot->write = false;
    } else {
        slot->block = pick_block(d);
        unsigned percent = d->job->write_percent;
        slot->write = percent == 100 || (percent && next_random(d) % 100 < percent);
    }
    if (d->busy_blocks)
        d->busy_blocks[slot->block] = 1;
    return true;
}

/* ---- the rings ---- */

static void push(struct driver *d, struct queue *q, size_t slot, size_t slot_in_queue)
{
    const struct frontend *fe = d->fe;
    const struct shape *shape = &d->shape;
    bool write = d->slots[slot].write;
    uint64_t sector = d->slots[slot].block * sectors_in(d);
    struct meta *meta = meta_of(d, slot);

    if (d->opt->verify && write)
        fill_block(d, slot, sector);
    else if (d->opt->verify)
        poison_block(d, slot);
    *meta = (struct meta){ .type = write ? BLK_T_OUT : BLK_T_IN, .sector = sector,
                           .status = STATUS_UNWRITTEN };

    uint16_t head = (uint16_t)(slot_in_queue * shape->ring_descriptors), next = head;
    struct desc *chain = &q->desc[head];
    if (shape->ring_descriptors == 1) {
        struct desc *table = table_of(d, slot);
        *chain = (struct desc){ guest_address(fe, table),
                                (uint32_t)(shape->descriptors * sizeof *table), DESC_INDIRECT, 0 };
        chain = table;
        next = 0;
    }
    *chain++ = (struct desc){ guest_address(fe, meta), 16, DESC_NEXT, ++next };
    for (uint32_t i = 0; i < shape->segments; i++)
        *chain++ = (struct desc){ guest_address(fe, segment_of(d, slot, i)), segment_length(shape, i),
                                  write ? DESC_NEXT : DESC_NEXT | DESC_WRITE, ++next };
    *chain = (struct desc){ guest_address(fe, &meta->status), 1, DESC_WRITE, 0 };

    atomic_store_explicit(&q->avail->ring[q->next_avail % fe->ring], head, memory_order_relaxed);
    q->next_avail++;
    q->in_flight++;
    d->slots[slot].busy = true;
}

/* Shows the server what was pushed; kicks if it wants that (virtio 1.3 §2.7.10). */
static void publish(struct driver *d, struct queue *q)
{
    uint16_t before = q->published, after = q->next_avail;
    if (before == after)
        return;
    atomic_store_explicit(&q->avail->idx, after, memory_order_release);
    q->published = after;
    atomic_thread_fence(memory_order_seq_cst);
    bool kick;
    if (has(d->fe, RING_F_EVENT_IDX)) {
        _Atomic uint16_t *avail_event = (_Atomic uint16_t *)&q->used->ring[d->fe->ring];
        uint16_t event = atomic_load_explicit(avail_event, memory_order_relaxed);
        kick = (uint16_t)(after - event - 1) < (uint16_t)(after - before);
    } else {
        kick = !(atomic_load_explicit(&q->used->flags, memory_order_relaxed) & USED_NO_NOTIFY);
    }
    if (!kick)
        return;
    d->result->kicks++;
    if (write(q->kick, &(uint64_t){ 1 }, sizeof(uint64_t)) != sizeof(uint64_t))
        die("kick: %s", strerror(errno));
}

static bool used_is_empty(const struct queue *q)
{
    return atomic_load_explicit(&q->used->idx, memory_order_acquire) == q->last_used;
}

/* The interrupt is asked for after the next request, or not at all. */
static void set_interrupt(struct driver *d, struct queue *q, bool on)
{
    if (has(d->fe, RING_F_EVENT_IDX))
        atomic_store_explicit(&q->avail->ring[d->fe->ring], on ? q->last_used : q->last_used - 1,
                              memory_order_relaxed);
    else
        atomic_store_explicit(&q->avail->flags, on ? 0 : AVAIL_NO_INTERRUPT, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

/* The server shares the eventfd's file description and may have made it non-blocking. */
static void take_interrupt(struct driver *d, struct queue *q)
{
    uint64_t count;
    ssize_t n;
    while ((n = read(q->call, &count, sizeof count)) < 0 && (errno == EAGAIN || errno == EINTR))
        poll(&(struct pollfd){ .fd = q->call, .events = POLLIN }, 1, -1);
    if (n != sizeof count)
        die("call eventfd: %s", strerror(errno));
    d->result->interrupts += count;
}

/* Interrupts that have come already; blocks at most `timeout` milliseconds (-1: for ever). */
static void take_interrupts(struct driver *d, int timeout)
{
    struct pollfd fds[MAX_QUEUES];
    for (unsigned i = 0; i < d->fe->queue_count; i++)
        fds[i] = (struct pollfd){ .fd = d->fe->queues[i].call, .events = POLLIN };
    if (poll(fds, d->fe->queue_count, timeout) <= 0)
        return;
    for (unsigned i = 0; i < d->fe->queue_count; i++)
        if (fds[i].revents & POLLIN)
            take_interrupt(d, &d->fe->queues[i]);
}

static void wait_for_used(struct driver *d)
{
    struct frontend *fe = d->fe;
    for (unsigned i = 0; i < fe->queue_count; i++)
        set_interrupt(d, &fe->queues[i], !d->opt->poll);
    for (unsigned i = 0; i < fe->queue_count; i++)
        if (!used_is_empty(&fe->queues[i]))
            return;
    if (d->opt->poll)
        return;
    if (fe->queue_count == 1)
        take_interrupt(d, &fe->queues[0]);
    else
        take_interrupts(d, -1);
}

static const char *status_name(uint8_t status)
{
    switch (status) {
    case STATUS_IOERR: return "I/O error";
    case STATUS_UNSUPP: return "unsupported";
    case STATUS_UNWRITTEN: return "never written";
    default: return "unknown";
    }
}

static void complete(struct driver *d, size_t slot_index, uint32_t length)
{
    struct slot *slot = &d->slots[slot_index];
    uint64_t sector = slot->block * sectors_in(d);
    uint8_t status = meta_of(d, slot_index)->status;
    if (status != STATUS_OK)
        die("%s: %s at sector %" PRIu64 ": status %u (%s)", d->job->text,
            slot->write ? "write" : "read", sector, status, status_name(status));
    /* virtio 1.3 §2.7.8: the bytes written into the device-writable part. */
    uint32_t writable = slot->write ? 1 : d->shape.bs + 1;
    if (length > writable || (d->opt->verify && length != writable))
        die("%s: %s at sector %" PRIu64 ": used length %u instead of %u", d->job->text,
            slot->write ? "write" : "read", sector, length, writable);
    if (d->opt->verify && !slot->write)
        compare_block(d, slot_index, sector);
    if (d->busy_blocks)
        d->busy_blocks[slot->block] = 0;
    slot->busy = false;
}

/* Takes what is complete into `done` (slots, counted over all queues). */
static unsigned reap(struct driver *d, unsigned queue, uint32_t *done)
{
    struct queue *q = &d->fe->queues[queue];
    uint16_t end = atomic_load_explicit(&q->used->idx, memory_order_acquire);
    unsigned count = (uint16_t)(end - q->last_used);
    if (count > q->in_flight)
        die("%s: %u requests complete, %u were in flight", d->job->text, count, q->in_flight);
    for (unsigned i = 0; i < count; i++, q->last_used++) {
        struct used_elem elem = q->used->ring[q->last_used % d->fe->ring];
        uint32_t in_queue = elem.id / d->shape.ring_descriptors;
        size_t slot = (size_t)queue * d->job->qd + in_queue;
        if (elem.id % d->shape.ring_descriptors || in_queue >= d->job->qd || !d->slots[slot].busy)
            die("%s: the used ring names descriptor %u, which is not in flight", d->job->text, elem.id);
        complete(d, slot, elem.len);
        done[i] = (uint32_t)slot;
    }
    q->in_flight -= count;
    return count;
}

/* ---- a job ---- */

static unsigned bucket_of(uint64_t ns)
{
    if (ns < 64)
        return (unsigned)ns;
    unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - 6;
    unsigned bucket = ((shift + 1) << 6) + (unsigned)(ns >> shift & 63);
    return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

double latency_us(const struct result *result, double part)
{
    uint64_t seen = 0, all = 0;
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        all += result->latency[i];
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        seen += result->latency[i];
        if (seen && (double)seen >= part * (double)all) {
            unsigned shift = i < 64 ? 0 : (i >> 6) - 1;
            double low = i < 64 ? i : (double)((UINT64_C(64) + (i & 63)) << shift);
            return (low + (double)(UINT64_C(1) << shift) / 2) / 1e3;
        }
    }
    return 0;
}

static void count_latency(struct result *result, uint64_t ns)
{
    result->latency[bucket_of(ns)]++;
    if (ns > result->max_ns)
        result->max_ns = ns;
}

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        die("%zu bytes: %s", count * size, strerror(errno));
    return memory;
}

static void driver_init(struct driver *d, struct frontend *fe, const struct options *opt,
                        const struct job *job, struct result *result)
{
    *d = (struct driver){ .fe = fe, .opt = opt, .job = job, .result = result };
    memset(result, 0, sizeof *result);
    d->shape = shape_of(fe, opt, job);
    result->segments = d->shape.segments;
    uint64_t sectors = fe->config.capacity;
    if (opt->span && opt->span / SECTOR < sectors)
        sectors = opt->span / SECTOR;
    d->blocks = sectors / (job->bs / SECTOR);
    d->random = mix(opt->seed);
    if (has(fe, BLK_F_BLK_SIZE) && fe->config.blk_size && job->bs % fe->config.blk_size)
        die("%s: the disk has blocks of %u bytes", job->text, fe->config.blk_size);
    if (d->blocks == 0)
        die("%s: the used part of the disk is smaller than one block", job->text);
    if (job->write_percent && has(fe, BLK_F_RO))
        die("%s: the disk is read-only", job->text);

    d->slot_count = (size_t)job->qd * fe->queue_count;
    d->slot_memory = fe->memory + fe->slots_at;
    d->slots = zeroed(d->slot_count, sizeof *d->slots);
    if (opt->verify) {
        if (d->blocks <= d->slot_count)
            die("%s: --verify needs more blocks than requests in flight", job->text);
        d->busy_blocks = zeroed(d->blocks, 1);
        verify_start(fe->config.capacity, opt->seed);
    }
    /* Written data is neither zero nor alike, as some servers look for that. */
    for (size_t i = 0; i < d->slot_count && job->write_percent; i++)
        for (uint32_t word = 0; word < job->bs / 8; word++)
            ((uint64_t *)data_of(d, i))[word] = next_random(d);
}

static void driver_free(struct driver *d)
{
    free(d->slots);
    free(d->busy_blocks);
}

/* Keeps every queue full until the time is over or there is nothing more to ask for. */
static void run(struct driver *d)
{
    struct frontend *fe = d->fe;
    const struct job *job = d->job;
    struct result *result = d->result;
    uint64_t limit = job->seconds > 0 || d->reading_back ? UINT64_MAX : job->count, asked = 0;
    uint32_t *done = zeroed(job->qd, sizeof *done);
    uint64_t start = now_ns(), now = start;
    uint64_t end = job->seconds > 0 && !d->reading_back ? start + (uint64_t)(job->seconds * 1e9)
                                                        : UINT64_MAX;
    uint32_t in_flight = 0;

    for (unsigned i = 0; i < fe->queue_count; i++) {
        struct queue *q = &fe->queues[i];
        set_interrupt(d, q, !d->opt->poll);
        for (size_t s = 0; s < job->qd; s++) {
            size_t slot = i * (size_t)job->qd + s;
            if (asked == limit || !next_request(d, &d->slots[slot]))
                break;
            asked++;
            in_flight++;
            d->slots[slot].started = now;
            push(d, q, slot, s);
        }
        publish(d, q);
    }
    while (in_flight) {
        unsigned reaped = 0;
        for (unsigned i = 0; i < fe->queue_count; i++) {
            struct queue *q = &fe->queues[i];
            unsigned count = reap(d, i, done);
            if (count == 0)
                continue;
            reaped += count;
            in_flight -= count;
            now = now_ns();
            for (unsigned k = 0; k < count; k++) {
                struct slot *slot = &d->slots[done[k]];
                count_latency(result, now - slot->started);
                if (now >= end || asked == limit || !next_request(d, slot))
                    continue;
                asked++;
                in_flight++;
                slot->started = now;
                push(d, q, done[k], done[k] - i * (size_t)job->qd);
            }
            publish(d, q);
        }
        result->requests += reaped;
        if (!reaped)
            wait_for_used(d);
    }
    result->seconds = (double)(now - start) / 1e9;
    take_interrupts(d, 0);      /* late ones */
    free(done);
}

void driver_run(struct frontend *fe, const struct options *opt, const struct job *job, struct result *result)
{
    struct driver d;
    driver_init(&d, fe, opt, job, result);
    run(&d);
    driver_free(&d);
}

void driver_read_back(struct frontend *fe, const struct options *opt, const struct job *job,
                      struct result *result)
{
    struct driver d;
    driver_init(&d, fe, opt, job, result);
    d.reading_back = true;
    run(&d);
    driver_free(&d);
}

void driver_abandon_read(struct frontend *fe, const struct options *opt, const struct job *job)
{
    struct driver d;
    struct result result;
    driver_init(&d, fe, opt, job, &result);
    next_request(&d, &d.slots[0]);
    push(&d, &fe->queues[0], 0, 0);
    publish(&d, &fe->queues[0]);
    driver_free(&d);
}
