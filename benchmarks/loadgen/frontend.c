/* The vhost-user front end: negotiation, memory and queues, in the order in which QEMU sends them.
 * The protocol is docs/interop/vhost-user.rst of QEMU; message names are its own.
 */
#define _GNU_SOURCE
#include "loadgen.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum request {
    GET_FEATURES = 1, SET_FEATURES = 2, SET_OWNER = 3, SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8, SET_VRING_ADDR = 9, SET_VRING_BASE = 10, GET_VRING_BASE = 11,
    SET_VRING_KICK = 12, SET_VRING_CALL = 13, SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15, SET_PROTOCOL_FEATURES = 16, GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18, GET_CONFIG = 24,
};

static const char *const request_names[] = {
    [GET_FEATURES] = "GET_FEATURES", [SET_FEATURES] = "SET_FEATURES", [SET_OWNER] = "SET_OWNER",
    [SET_MEM_TABLE] = "SET_MEM_TABLE", [SET_VRING_NUM] = "SET_VRING_NUM",
    [SET_VRING_ADDR] = "SET_VRING_ADDR", [SET_VRING_BASE] = "SET_VRING_BASE",
    [GET_VRING_BASE] = "GET_VRING_BASE", [SET_VRING_KICK] = "SET_VRING_KICK",
    [SET_VRING_CALL] = "SET_VRING_CALL", [SET_VRING_ERR] = "SET_VRING_ERR",
    [GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
    [SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES", [GET_QUEUE_NUM] = "GET_QUEUE_NUM",
    [SET_VRING_ENABLE] = "SET_VRING_ENABLE", [GET_CONFIG] = "GET_CONFIG",
};

enum { PROTOCOL_MQ = 0, PROTOCOL_REPLY_ACK = 3, PROTOCOL_CONFIG = 9 };

enum { VERSION = 1, VERSION_MASK = 3, IS_REPLY = 1 << 2, NEED_REPLY = 1 << 3 };

struct header {
    uint32_t request, flags, size;
};

struct vring_state {
    uint32_t index, num;
};

struct vring_addr {
    uint32_t index, flags;
    uint64_t desc, used, avail, log;
};

struct mem_table {
    uint32_t count, padding;
    uint64_t guest, size, user, offset;         /* the one region */
};

struct config_space {
    uint32_t offset, size, flags;
    struct blk_config config;
} __attribute__((packed));

static bool agreed(const struct frontend *fe, unsigned protocol_bit)
{
    return fe->protocol >> protocol_bit & 1;
}

/* ---- messages ---- */

static bool is_hang_up(int error)
{
    return error == EPIPE || error == ECONNRESET;
}

/* False: the server has hung up. */
static bool try_send(struct frontend *fe, enum request request, uint32_t flags, const void *payload,
                     uint32_t size, int fd)
{
    struct header header = { request, VERSION | flags, size };
    struct iovec parts[] = { { &header, sizeof header }, { (void *)payload, size } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = size ? 2 : 1 };
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { 0 };

    if (fd >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    ssize_t sent = sendmsg(fe->sock, &message, MSG_NOSIGNAL);
    if (sent < 0 && is_hang_up(errno))
        return false;
    if (sent != (ssize_t)(sizeof header + size))
        die("sending %s: %s", request_names[request], sent < 0 ? strerror(errno) : "cut short");
    return true;
}

/* False: the server has hung up before the first byte. */
static bool receive(struct frontend *fe, enum request request, void *buffer, size_t size)
{
    for (size_t got = 0; got < size;) {
        ssize_t n = recv(fe->sock, (char *)buffer + got, size - got, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && !is_hang_up(errno))
            die("receiving the reply to %s: %s", request_names[request], strerror(errno));
        if (n <= 0) {
            if (got == 0)
                return false;
            die("the server hung up within its reply to %s", request_names[request]);
        }
        got += (size_t)n;
    }
    return true;
}

/* A reply of exactly `size` bytes. False: the server has hung up instead. */
static bool try_reply(struct frontend *fe, enum request request, void *payload, uint32_t size)
{
    struct header header;
    if (!receive(fe, request, &header, sizeof header))
        return false;
    if (header.request != request)
        die("the server answers message %u, was asked %s", header.request, request_names[request]);
    if ((header.flags & VERSION_MASK) != VERSION || !(header.flags & IS_REPLY))
        die("the reply to %s has flags 0x%x", request_names[request], header.flags);
    if (header.size != size)
        die("the reply to %s has %u bytes, not %u", request_names[request], header.size, size);
    return receive(fe, request, payload, size);
}

static _Noreturn void hung_up(enum request request)
{
    die("the server hung up at %s", request_names[request]);
}

static void ask(struct frontend *fe, enum request request, const void *payload, uint32_t payload_size,
                void *reply, uint32_t reply_size)
{
    if (!try_send(fe, request, 0, payload, payload_size, -1) ||
        !try_reply(fe, request, reply, reply_size))
        hung_up(request);
}

static uint64_t get(struct frontend *fe, enum request request)
{
    uint64_t value;
    ask(fe, request, NULL, 0, &value, sizeof value);
    return value;
}

/* A message without a reply of its own: acknowledged if that was agreed on. */
static void set(struct frontend *fe, enum request request, const void *payload, uint32_t size, int fd)
{
    bool acknowledged = agreed(fe, PROTOCOL_REPLY_ACK);
    if (!try_send(fe, request, acknowledged ? NEED_REPLY : 0, payload, size, fd))
        hung_up(request);
    if (acknowledged) {
        uint64_t failed;
        if (!try_reply(fe, request, &failed, sizeof failed))
            hung_up(request);
        if (failed)
            die("the server refuses %s (%llu)", request_names[request], (unsigned long long)failed);
    }
}

static void set_u64(struct frontend *fe, enum request request, uint64_t value, int fd)
{
    set(fe, request, &value, sizeof value, fd);
}

static void set_vring(struct frontend *fe, enum request request, uint32_t index, uint32_t value)
{
    set(fe, request, &(struct vring_state){ index, value }, sizeof(struct vring_state), -1);
}

/* ---- negotiation ---- */

static void connect_socket(struct frontend *fe, const char *path, double wait)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof address.sun_path)
        die("%s: longer than the %zu bytes a socket's path may have", path, sizeof address.sun_path - 1);
    strcpy(address.sun_path, path);
    fe->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fe->sock < 0)
        die("socket: %s", strerror(errno));
    uint64_t end = now_ns() + (uint64_t)(wait * 1e9);
    while (connect(fe->sock, (struct sockaddr *)&address, sizeof address) < 0) {
        bool not_yet = errno == ENOENT || errno == ECONNREFUSED;    /* the latter: a stale socket */
        if (errno != EINTR && !(not_yet && now_ns() < end))
            die("%s: %s", path, strerror(errno));
        sleep_ms(5);
    }
}

static uint64_t bits(const uint8_t *list, size_t count)
{
    uint64_t all = 0;
    while (count--)
        all |= UINT64_C(1) << list[count];
    return all;
}

bool frontend_connect(struct frontend *fe, const struct options *opt)
{
    /* What Linux' virtio_blk takes when it is offered. */
    static const uint8_t wanted[] = {
        BLK_F_SIZE_MAX, BLK_F_SEG_MAX, BLK_F_GEOMETRY, BLK_F_RO, BLK_F_BLK_SIZE, BLK_F_FLUSH,
        BLK_F_TOPOLOGY, BLK_F_CONFIG_WCE, BLK_F_DISCARD, BLK_F_WRITE_ZEROES,
        VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_VERSION_1,
    };
    static const uint8_t needed[] = { VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_VERSION_1 };

    memset(fe, 0, sizeof *fe);
    fe->memfd = -1;
    connect_socket(fe, opt->socket, opt->wait);
    uint64_t offered;
    if (!try_send(fe, GET_FEATURES, 0, NULL, 0, -1) ||
        !try_reply(fe, GET_FEATURES, &offered, sizeof offered)) {
        frontend_close(fe);
        return false;
    }
    uint64_t wish = bits(wanted, sizeof wanted);
    if (opt->event_idx)
        wish |= UINT64_C(1) << RING_F_EVENT_IDX;
    if (opt->indirect)
        wish |= UINT64_C(1) << RING_F_INDIRECT_DESC;
    if (opt->queues > 1)
        wish |= UINT64_C(1) << BLK_F_MQ;
    fe->features = offered & wish;
    if (bits(needed, sizeof needed) & ~fe->features)
        die("the server must offer VERSION_1 and PROTOCOL_FEATURES, offers 0x%llx",
            (unsigned long long)offered);
    if (opt->indirect && !has(fe, RING_F_INDIRECT_DESC))
        die("--indirect: the server does not offer INDIRECT_DESC");

    uint64_t protocol = get(fe, GET_PROTOCOL_FEATURES);
    uint64_t protocol_wish = 1 << PROTOCOL_REPLY_ACK | 1 << PROTOCOL_CONFIG;
    if (opt->queues > 1)
        protocol_wish |= 1 << PROTOCOL_MQ;
    if (!(protocol >> PROTOCOL_CONFIG & 1))
        die("the server does not offer the protocol feature CONFIG");
    /* From this message on, not before, may an acknowledgement be asked for. */
    set_u64(fe, SET_PROTOCOL_FEATURES, protocol & protocol_wish, -1);
    fe->protocol = protocol & protocol_wish;

    fe->queue_count = opt->queues;
    if (opt->queues > 1) {
        uint64_t most = agreed(fe, PROTOCOL_MQ) && has(fe, BLK_F_MQ) ? get(fe, GET_QUEUE_NUM) : 1;
        if (opt->queues > most)
            die("--queues %u: the server has %llu", opt->queues, (unsigned long long)most);
    }
    set(fe, SET_OWNER, NULL, 0, -1);

    struct config_space space = { 0, sizeof space.config, 0, { 0 } };
    ask(fe, GET_CONFIG, &space, sizeof space, &space, sizeof space);
    if (space.size != sizeof space.config)
        die("the reply to GET_CONFIG holds %u bytes, not %zu", space.size, sizeof space.config);
    fe->config = space.config;
    if (fe->config.capacity == 0)
        die("the disk has no sectors");
    return true;
}

/* ---- memory and queues ---- */

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static size_t desc_size(unsigned ring)
{
    return round_up(ring * sizeof(struct desc), 64);
}

static size_t avail_size(unsigned ring)
{
    return round_up(sizeof(struct avail) + (ring + 1) * sizeof(uint16_t), 64);
}

static size_t used_size(unsigned ring)
{
    return round_up(sizeof(struct used) + ring * sizeof(struct used_elem) + sizeof(uint16_t), 64);
}

size_t frontend_rings_size(unsigned queues, unsigned ring)
{
    return queues * round_up(desc_size(ring) + avail_size(ring) + used_size(ring), PAGE);
}

static int new_eventfd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); /* as QEMU makes them */
    if (fd < 0)
        die("eventfd: %s", strerror(errno));
    return fd;
}

static void start_queue(struct frontend *fe, uint32_t index)
{
    struct queue *q = &fe->queues[index];
    uint8_t *at = fe->memory + frontend_rings_size(index, fe->ring);
    q->desc = (struct desc *)at;
    q->avail = (struct avail *)(at + desc_size(fe->ring));
    q->used = (struct used *)(at + desc_size(fe->ring) + avail_size(fe->ring));
    q->kick = new_eventfd();
    q->call = new_eventfd();
    q->err = new_eventfd();

    struct vring_addr address = {
        .index = index,
        .desc = (uintptr_t)q->desc,
        .used = (uintptr_t)q->used,
        .avail = (uintptr_t)q->avail,
    };
    set_vring(fe, SET_VRING_NUM, index, fe->ring);
    set_vring(fe, SET_VRING_BASE, index, 0);
    set(fe, SET_VRING_ADDR, &address, sizeof address, -1);
    set_u64(fe, SET_VRING_KICK, index, q->kick);
    set_u64(fe, SET_VRING_CALL, index, q->call);
    set_u64(fe, SET_VRING_ERR, index, q->err);
}

void frontend_start(struct frontend *fe, unsigned ring, size_t slots_size)
{
    fe->ring = ring;
    fe->slots_at = frontend_rings_size(fe->queue_count, ring);
    fe->memory_size = round_up(fe->slots_at + slots_size, PAGE);
    fe->memfd = memfd_create("loadgen", MFD_CLOEXEC);
    if (fe->memfd < 0 || ftruncate(fe->memfd, (off_t)fe->memory_size) < 0)
        die("%zu bytes of guest memory: %s", fe->memory_size, strerror(errno));
    fe->memory = mmap(NULL, fe->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                      fe->memfd, 0);
    if (fe->memory == MAP_FAILED)
        die("%zu bytes of guest memory: %s", fe->memory_size, strerror(errno));

    struct mem_table table = {
        .count = 1,
        .guest = GUEST_BASE,
        .size = fe->memory_size,
        .user = (uintptr_t)fe->memory,
    };
    set_u64(fe, SET_FEATURES, fe->features, -1);
    set(fe, SET_MEM_TABLE, &table, sizeof table, fe->memfd);
    for (uint32_t i = 0; i < fe->queue_count; i++)
        start_queue(fe, i);
    for (uint32_t i = 0; i < fe->queue_count; i++)
        set_vring(fe, SET_VRING_ENABLE, i, 1);
}

void frontend_stop(struct frontend *fe)
{
    for (uint32_t i = 0; i < fe->queue_count; i++) {
        struct vring_state state = { i, 0 };
        ask(fe, GET_VRING_BASE, &state, sizeof state, &state, sizeof state);
        if (state.index != i || (uint16_t)state.num != fe->queues[i].published)
            die("queue %u stopped: the server says queue %u, next request %u; %u were offered",
                i, state.index, state.num, fe->queues[i].published);
    }
}

void frontend_close(struct frontend *fe)
{
    for (uint32_t i = 0; i < fe->queue_count && fe->memory; i++) {
        close(fe->queues[i].kick);
        close(fe->queues[i].call);
        close(fe->queues[i].err);
    }
    if (fe->memory)
        munmap(fe->memory, fe->memory_size);
    if (fe->memfd >= 0)
        close(fe->memfd);
    close(fe->sock);
    fe->memory = NULL;
    fe->memfd = fe->sock = -1;
}
