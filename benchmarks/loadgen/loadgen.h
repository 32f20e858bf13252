/* loadgen: a native load generator for vhost-user-blk servers.
 *
 *   loadgen.c   options, time limit, churn, reports
 *   frontend.c  the vhost-user front end: what QEMU says to the server
 *   driver.c    the virtio-blk driver: what the guest does with the rings
 *   verify.c    what must be on the disk
 */
#ifndef LOADGEN_H
#define LOADGEN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "virtio and vhost-user are little-endian");

enum { SECTOR = 512, PAGE = 4096, MAX_QUEUES = 16 };

/* ---- what the options ask for (loadgen.c) ---- */

struct job {
    const char *text;           /* as given: randread,4k,32,2.0 */
    const char *kind;
    bool random;
    unsigned write_percent;     /* 0 reads, 100 writes */
    uint32_t bs;
    uint32_t qd;                /* in each queue */
    double seconds;             /* 0: `count` requests instead */
    uint64_t count;
};

struct options {
    const char *socket;
    double wait;                /* seconds, for the socket to answer */
    bool event_idx;             /* as wished; what was agreed is in struct frontend */
    bool indirect;
    bool segments;              /* larger requests as 4 KiB pages */
    bool poll;                  /* watch the used ring instead of waiting for the call eventfd */
    bool verify;
    unsigned queues;
    unsigned ring;              /* 0: as large as the jobs need, 128 at least */
    uint64_t seed;
    uint64_t span;              /* bytes of the disk that are used, 0: all */
};

/* One line on stderr, exit status 1. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
void sleep_ms(unsigned ms);
struct frontend;
/* From here on the time limit's tick also looks whether the server is well (NULL: no longer). */
void watch_server(const struct frontend *fe);

/* ---- the vhost-user front end (frontend.c) ---- */

/* virtio 1.3 §2.7.5 and following */
struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

struct avail {
    _Atomic uint16_t flags, idx, ring[];        /* ring[num] is used_event */
};
enum { AVAIL_NO_INTERRUPT = 1 };

struct used_elem {
    uint32_t id, len;
};
struct used {
    _Atomic uint16_t flags, idx;
    struct used_elem ring[];                    /* followed by avail_event */
};
enum { USED_NO_NOTIFY = 1 };

/* virtio 1.3 §5.2.4; the length is what QEMU 7.2 answers in full (a longer question gets nothing). */
struct blk_config {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));
_Static_assert(sizeof(struct blk_config) == 60, "virtio_blk_config up to write_zeroes");

enum feature {
    BLK_F_SIZE_MAX = 1, BLK_F_SEG_MAX = 2, BLK_F_GEOMETRY = 4, BLK_F_RO = 5, BLK_F_BLK_SIZE = 6,
    BLK_F_FLUSH = 9, BLK_F_TOPOLOGY = 10, BLK_F_CONFIG_WCE = 11, BLK_F_MQ = 12,
    BLK_F_DISCARD = 13, BLK_F_WRITE_ZEROES = 14,
    RING_F_INDIRECT_DESC = 28, RING_F_EVENT_IDX = 29,
    VHOST_USER_F_PROTOCOL_FEATURES = 30, VIRTIO_F_VERSION_1 = 32,
};

struct queue {
    struct desc *desc;
    struct avail *avail;
    struct used *used;
    int kick, call, err;
    uint16_t next_avail;        /* where the next chain goes; published by publish() in driver.c */
    uint16_t published;
    uint16_t last_used;
    uint32_t in_flight;
};

struct frontend {
    int sock;
    uint64_t features;          /* agreed */
    uint64_t protocol;          /* agreed */
    struct blk_config config;
    unsigned queue_count, ring;
    struct queue queues[MAX_QUEUES];
    int memfd;
    uint8_t *memory;            /* one region; the guest sees it at GUEST_BASE */
    size_t memory_size;
    size_t slots_at;            /* the rings end here, the driver has the rest */
};

/* Above 4 GiB, so that a server which cuts addresses to 32 bits is found out. */
#define GUEST_BASE (UINT64_C(1) << 32)

static inline bool has(const struct frontend *fe, enum feature bit)
{
    return fe->features >> bit & 1;
}

static inline uint64_t guest_address(const struct frontend *fe, const volatile void *pointer)
{
    return GUEST_BASE + (uint64_t)((const volatile uint8_t *)pointer - fe->memory);
}

/* Connects and negotiates. False: the server hung up at the first question (it has another client). */
bool frontend_connect(struct frontend *fe, const struct options *opt);
/* Bytes of memory that rings of this size take. */
size_t frontend_rings_size(unsigned queues, unsigned ring);
/* Hands memory and queues to the server and starts them. */
void frontend_start(struct frontend *fe, unsigned ring, size_t slots_size);
/* Stops the queues; each must have taken all that was offered to it. */
void frontend_stop(struct frontend *fe);
void frontend_close(struct frontend *fe);

/* ---- the virtio-blk driver (driver.c) ---- */

enum { LATENCY_BUCKETS = 64 * 40 };

struct result {
    double seconds;
    uint64_t requests, kicks, interrupts;
    uint64_t verified;          /* requests whose data was compared */
    uint64_t errors;            /* those that were wrong */
    uint64_t max_ns;
    uint64_t latency[LATENCY_BUCKETS];
    unsigned segments;          /* of data in each request */
};

/* The memory and the ring that a job needs. */
size_t driver_slots_size(const struct frontend *fe, const struct options *opt, const struct job *job);
unsigned driver_ring_size(const struct frontend *fe, const struct options *opt, const struct job *job);
void driver_run(struct frontend *fe, const struct options *opt, const struct job *job, struct result *result);
/* Compares all that verified jobs have written so far, with the requests of `job`. */
void driver_read_back(struct frontend *fe, const struct options *opt, const struct job *job, struct result *result);
/* One read that is left in flight. */
void driver_abandon_read(struct frontend *fe, const struct options *opt, const struct job *job);
/* In microseconds; `part` 0.5 is the median. */
double latency_us(const struct result *result, double part);

/* ---- what must be on the disk (verify.c) ---- */

static inline uint64_t mix(uint64_t z)      /* splitmix64 */
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* The first call counts: what one job has written, later ones may compare. */
void verify_start(uint64_t sectors, uint64_t seed);
/* The contents of the sector's next generation. */
void verify_fill(uint8_t *data, uint64_t sector);
/* True: it was written in this run. */
bool verify_known(uint64_t sector);
/* False: not what was written last; the first time this happens it is described on stderr. */
bool verify_compare(const uint8_t *data, uint64_t sector);

#endif
