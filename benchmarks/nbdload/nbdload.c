/* nbdload: how fast is an NBD server? A client that costs about a microsecond a request.
 *
 *     nbdload SOCKET read|randread|write|randwrite BLOCK DEPTH SECONDS
 *
 * DEPTH requests of BLOCK bytes are under way; what is free after the replies of one receive is
 * asked for anew by one send. Simple replies, the default export. Prints one line of JSON. Anything
 * but the right reply is one line on standard error and exit status 1.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MOST_DEPTH 1024
#define RECEIVE (4u << 20)

struct __attribute__((packed)) request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t length;
};

struct __attribute__((packed)) reply {
	uint32_t magic, error;
	uint64_t cookie;
};

static int fd;
static uint64_t seed = 88172645463325252u;

static uint64_t random_number(void) /* xorshift64 */
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static void send_all(const void *data, size_t length)
{
	for (const char *at = data; length;) {
		ssize_t count = send(fd, at, length, MSG_NOSIGNAL);
		if (count <= 0)
			err(1, "send");
		at += count;
		length -= count;
	}
}

static void take(void *into, size_t length)
{
	if (recv(fd, into, length, MSG_WAITALL) != (ssize_t)length)
		errx(1, "the server has hung up");
}

static uint64_t shake_hands(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct __attribute__((packed)) { uint64_t magic, option_magic; uint16_t flags; } greeting;
	struct __attribute__((packed)) { uint32_t flags; uint64_t magic; uint32_t option, length; } go;
	struct __attribute__((packed)) { uint64_t size; uint16_t flags; } export;

	strncpy(address.sun_path, path, sizeof address.sun_path - 1);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(fd, (void *)&address, sizeof address))
		err(1, "%s", path);
	take(&greeting, sizeof greeting);
	if (be64toh(greeting.magic) != 0x4e42444d41474943u || (be16toh(greeting.flags) & 3) != 3)
		errx(1, "%s: no NBD server", path);
	go.flags = htobe32(3);
	go.magic = htobe64(0x49484156454f5054u);
	go.option = htobe32(1); /* EXPORT_NAME */
	go.length = 0;
	send_all(&go, sizeof go);
	take(&export, sizeof export);
	return be64toh(export.size);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void check(const struct reply *reply, uint32_t depth, const uint8_t *under_way)
{
	if (be32toh(reply->magic) != 0x67446698 || reply->error || reply->cookie >= depth ||
	    !under_way[reply->cookie])
		errx(1, "a reply that is wrong");
}

int main(int count, char **words)
{
	if (count != 6)
		errx(1, "nbdload SOCKET KIND BLOCK DEPTH SECONDS");
	int is_random = !strncmp(words[2], "rand", 4), is_write = !!strstr(words[2], "write");
	uint32_t block = strtoul(words[3], NULL, 0), depth = strtoul(words[4], NULL, 0);
	uint64_t blocks = shake_hands(words[1]) / block, next = 0, asked = 0, done = 0;
	size_t sent = sizeof(struct request) + is_write * block;
	size_t data = is_write ? 0 : block;
	if (!depth || depth > MOST_DEPTH || !blocks)
		errx(1, "1 to %d requests of some bytes that the export has", MOST_DEPTH);
	char *out = malloc(depth * sent), *in = malloc(RECEIVE);
	uint8_t under_way[MOST_DEPTH] = {0};
	uint32_t waiting = depth, free_slots[MOST_DEPTH];
	size_t have = 0, skip = 0; /* bytes of a reply's header; bytes of data to come */
	int in_data = 0;
	struct reply reply;

	for (uint32_t slot = 0; slot < depth; slot++)
		free_slots[slot] = slot;
	for (size_t n = 0; n < depth * sent; n++)
		out[n] = random_number();
	double begin = now(), end = begin + atof(words[5]);
	do {
		if (now() >= end)
			waiting = 0; /* no more; but nobody is left with replies that nobody takes */
		for (uint32_t n = 0; n < waiting; n++) {
			uint64_t at = is_random ? random_number() % blocks : next++ % blocks;
			struct request request = {
				htobe32(0x25609513), 0, htobe16(is_write), free_slots[n],
				htobe64(at * block), htobe32(block),
			};
			under_way[free_slots[n]] = 1;
			memcpy(out + n * sent, &request, sizeof request);
		}
		send_all(out, waiting * sent);
		asked += waiting;
		waiting = 0;
		while (!waiting && done < asked) {
			ssize_t got = recv(fd, in, RECEIVE, 0);
			if (got <= 0)
				errx(1, "the server has hung up");
			for (char *at = in; got;) {
				size_t want = in_data ? skip : sizeof reply - have;
				size_t part = want < (size_t)got ? want : (size_t)got;
				if (in_data) {
					skip -= part;
				} else {
					memcpy((char *)&reply + have, at, part);
					have += part;
					if (have == sizeof reply) {
						check(&reply, depth, under_way);
						in_data = 1;
						skip = data;
					}
				}
				at += part;
				got -= part;
				if (in_data && !skip) {
					under_way[reply.cookie] = 0;
					free_slots[waiting++] = reply.cookie;
					have = in_data = 0;
					done++;
				}
			}
		}
	} while (waiting);
	double took = now() - begin;
	struct request leave = {.magic = htobe32(0x25609513), .type = htobe16(2)};
	send_all(&leave, sizeof leave);
	printf("{\"iops\": %.1f, \"mbps\": %.3f, \"requests\": %lu}\n", done / took,
	       done * (double)block / took / 1e6, done);
	return 0;
}
