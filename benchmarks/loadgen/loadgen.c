/* Options, time limit, churn and reports; README.md says how to use it. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { MAX_JOBS = 64, MAX_PIDS = 16 };

static const char usage[] =
    "usage: loadgen SOCKET --job KIND[,BS[,QD[,SECONDS or COUNTr]]]... [options]\n"
    "       loadgen SOCKET --churn N [options]\n"
    "  -j, --job JOB        randread, randwrite, randrw, read, write; 4k, 1 and 2 s unless given;\n"
    "                       may be repeated\n"
    "  -c, --churn N        connect, negotiate, read a block, leave in three ways; N times\n"
    "  -p, --pid PID        report the CPU time of this server process (repeat to add more)\n"
    "      --verify         write patterns, read back, compare\n"
    "      --poll           watch the used ring instead of waiting for interrupts\n"
    "      --indirect       descriptors in indirect tables\n"
    "      --segments       data of larger requests in 4 KiB pages\n"
    "      --no-event-idx   do not use EVENT_IDX\n"
    "      --queues N       this many queues, each with the job's depth\n"
    "      --ring N         descriptors in a ring (128, or what the jobs need)\n"
    "      --span SIZE      use only the first part of the disk\n"
    "      --seed N         of offsets and patterns (1)\n"
    "      --wait SECONDS   for the server to answer at its socket (0)\n"
    "      --limit SECONDS  give up after this time (60, and four times what the jobs take)\n";

static const char *doing = "connecting";

_Noreturn void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void sleep_ms(unsigned ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

/* ---- never hang: a tick that ends the process, whatever it waits for ---- */

static uint64_t give_up_at;
static const struct frontend *volatile watched;

/* Only what is allowed in a signal handler. */
static _Noreturn void die_in_signal(const char *message)
{
    const char *parts[] = { "loadgen: ", doing, ": ", message, "\n" };
    char line[512];
    size_t length = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (const char *c = parts[i]; *c && length < sizeof line; c++)
            line[length++] = *c;
    ssize_t written = write(STDERR_FILENO, line, length);
    _exit(written < 0 ? 2 : 1);
}

static void tick(int signal)
{
    int saved = errno;
    (void)signal;
    if (now_ns() > give_up_at)
        die_in_signal("the time limit has passed");
    const struct frontend *fe = watched;
    if (fe) {
        char byte;
        ssize_t n = recv(fe->sock, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            die_in_signal("the server has hung up");
        if (n > 0)
            die_in_signal("the server sent a message that nobody asked for");
        for (unsigned i = 0; i < fe->queue_count; i++) {
            struct pollfd err = { .fd = fe->queues[i].err, .events = POLLIN };
            if (poll(&err, 1, 0) > 0)
                die_in_signal("the server reports an error on a queue");
        }
    }
    errno = saved;
}

void watch_server(const struct frontend *fe)
{
    watched = fe;
}

static void start_time_limit(double seconds)
{
    give_up_at = now_ns() + (uint64_t)(seconds * 1e9);
    struct sigaction action = { .sa_handler = tick, .sa_flags = SA_RESTART };
    struct itimerval every = { { 0, 100000 }, { 0, 100000 } };
    if (sigaction(SIGALRM, &action, NULL) < 0 || setitimer(ITIMER_REAL, &every, NULL) < 0)
        die("time limit: %s", strerror(errno));
}

/* ---- what the server's processes use ---- */

static pid_t pids[MAX_PIDS];
static unsigned pid_count;

struct cpu {
    double user, system;        /* seconds */
};

static struct cpu server_cpu(void)
{
    struct cpu sum = { 0, 0 };
    for (unsigned i = 0; i < pid_count; i++) {
        char path[64], text[1024];
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pids[i]);
        FILE *file = fopen(path, "r");
        if (!file)
            die("--pid %d: %s", (int)pids[i], strerror(errno));
        size_t length = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        text[length] = 0;
        /* The name, the second field, may hold spaces and parentheses. */
        const char *after_name = strrchr(text, ')');
        unsigned long user, system;
        if (!after_name || sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                                  &user, &system) != 2)
            die("%s cannot be read", path);
        sum.user += (double)user / (double)sysconf(_SC_CLK_TCK);
        sum.system += (double)system / (double)sysconf(_SC_CLK_TCK);
    }
    return sum;
}

static struct cpu own_cpu(void)
{
    struct rusage usage_now;
    getrusage(RUSAGE_SELF, &usage_now);
    return (struct cpu){
        (double)usage_now.ru_utime.tv_sec + (double)usage_now.ru_utime.tv_usec / 1e6,
        (double)usage_now.ru_stime.tv_sec + (double)usage_now.ru_stime.tv_usec / 1e6,
    };
}

/* -1: not known. */
static int server_fds(void)
{
    int count = pid_count ? 0 : -1;
    for (unsigned i = 0; i < pid_count; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/fd", (int)pids[i]);
        DIR *folder = opendir(path);
        if (!folder)
            return -1;
        for (struct dirent *entry; (entry = readdir(folder));)
            count += entry->d_name[0] != '.';
        closedir(folder);
    }
    return count;
}

/* ---- jobs ---- */

static void print_per_request(const char *name, double seconds, uint64_t requests, bool known)
{
    if (known && requests)
        printf(",\"%s\":%.3f", name, seconds * 1e6 / (double)requests);
    else
        printf(",\"%s\":null", name);
}

static void report(const struct frontend *fe, const struct options *opt, const struct job *job,
                   const struct result *r, struct cpu server, struct cpu own)
{
    double rate = r->seconds > 0 ? (double)r->requests / r->seconds : 0;
    printf("{\"job\":\"%s\",\"bs\":%u,\"qd\":%u,\"seconds\":%.3f,\"requests\":%" PRIu64
           ",\"iops\":%.0f,\"mbps\":%.1f,\"kicks\":%" PRIu64 ",\"interrupts\":%" PRIu64,
           job->kind, job->bs, job->qd, r->seconds, r->requests, rate, rate * job->bs / 1e6, r->kicks,
           r->interrupts);
    printf(",\"lat_us\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f},\"errors\":%" PRIu64
           ",\"verified\":%" PRIu64, latency_us(r, 0.5), latency_us(r, 0.99), (double)r->max_ns / 1e3,
           r->errors, r->verified);
    print_per_request("server_cpu_us_per_request", server.user + server.system, r->requests, pid_count);
    print_per_request("server_user_us_per_request", server.user, r->requests, pid_count);
    print_per_request("server_system_us_per_request", server.system, r->requests, pid_count);
    print_per_request("own_cpu_us_per_request", own.user + own.system, r->requests, true);
    printf(",\"queues\":%u,\"segments\":%u,\"indirect\":%s,\"event_idx\":%s,\"poll\":%s}\n",
           fe->queue_count, r->segments, has(fe, RING_F_INDIRECT_DESC) ? "true" : "false",
           has(fe, RING_F_EVENT_IDX) ? "true" : "false", opt->poll ? "true" : "false");
    fflush(stdout);
}

/* A server that has another client may hang up at once: ask again for `seconds`. */
static void connect_within(struct frontend *fe, const struct options *opt, double seconds, unsigned *refused)
{
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    while (!frontend_connect(fe, opt)) {
        if (now_ns() > end)
            die("%s: the server hangs up at once; has it another client?", opt->socket);
        ++*refused;
        sleep_ms(5);
    }
}

static void start(struct frontend *fe, const struct options *opt, const struct job *jobs, unsigned count)
{
    size_t slots = 0;
    unsigned ring = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t size = driver_slots_size(fe, opt, &jobs[i]);
        unsigned needed = driver_ring_size(fe, opt, &jobs[i]);
        slots = size > slots ? size : slots;
        ring = needed > ring ? needed : ring;
    }
    frontend_start(fe, ring, slots);
}

static bool run_jobs(const struct options *opt, const struct job *jobs, unsigned count)
{
    static struct result result, read_back;
    struct frontend fe;
    unsigned refused = 0;
    uint64_t errors = 0;

    connect_within(&fe, opt, 0, &refused);
    start(&fe, opt, jobs, count);
    watch_server(&fe);
    for (unsigned i = 0; i < count; i++) {
        doing = jobs[i].text;
        struct cpu server = server_cpu(), own = own_cpu();
        driver_run(&fe, opt, &jobs[i], &result);
        struct cpu server_end = server_cpu(), own_end = own_cpu();
        if (opt->verify && jobs[i].write_percent) {
            driver_read_back(&fe, opt, &jobs[i], &read_back);
            result.verified += read_back.verified;
            result.errors += read_back.errors;
        }
        report(&fe, opt, &jobs[i], &result,
               (struct cpu){ server_end.user - server.user, server_end.system - server.system },
               (struct cpu){ own_end.user - own.user, own_end.system - own.system });
        errors += result.errors;
    }
    doing = "leaving";
    watch_server(NULL);
    frontend_stop(&fe);
    frontend_close(&fe);
    return errors == 0;
}

/* ---- churn ---- */

static void churn(const struct options *opt, unsigned rounds)
{
    static struct result result;
    struct job job = { .text = "churn", .kind = "randread", .random = true, .bs = PAGE, .qd = 1, .count = 1 };
    unsigned refused = 0;
    int before = server_fds();
    uint64_t began = now_ns();

    doing = "churn";
    for (unsigned round = 0; round < rounds; round++) {
        struct frontend fe;
        connect_within(&fe, opt, 5, &refused);
        start(&fe, opt, &job, 1);
        watch_server(&fe);
        driver_run(&fe, opt, &job, &result);
        watch_server(NULL);
        if (round % 3 == 0)
            frontend_stop(&fe);
        else if (round % 3 == 1)
            driver_abandon_read(&fe, opt, &job);
        frontend_close(&fe);
    }
    double seconds = (double)(now_ns() - began) / 1e9;
    int after = server_fds();
    for (unsigned i = 0; i < 100 && after > before; i++, after = server_fds())
        sleep_ms(10);       /* the server may not have seen the last one leave */
    printf("{\"job\":\"churn\",\"rounds\":%u,\"seconds\":%.3f,\"per_second\":%.0f,\"refused\":%u", rounds,
           seconds, rounds / seconds, refused);
    if (before >= 0 && after >= 0)
        printf(",\"server_fds\":{\"before\":%d,\"after\":%d}}\n", before, after);
    else
        printf(",\"server_fds\":null}\n");
}

/* ---- options ---- */

static uint64_t number(const char *what, const char *text, uint64_t most)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 0);
    if (errno || end == text || *end || *text == '-' || value > most)
        die("%s: '%s' is not a number from 0 to %" PRIu64, what, text, most);
    return value;
}

static uint64_t size(const char *what, const char *text)
{
    static const char units[] = "kmgt";
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    const char *unit = *end ? strchr(units, *end | 0x20) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (errno || end == text || *text == '-' || (unit ? end[1] : *end) || value > UINT64_MAX >> shift)
        die("%s: '%s' is not a size such as 4096, 4k or 1M", what, text);
    return value << shift;
}

static double duration(const char *what, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value < 1e6))
        die("%s: '%s' is not a number of seconds", what, text);
    return value;
}

static struct job parse_job(const char *text)
{
    static const struct job kinds[] = {
        { .kind = "randread", .random = true, .write_percent = 0 },
        { .kind = "randwrite", .random = true, .write_percent = 100 },
        { .kind = "randrw", .random = true, .write_percent = 50 },
        { .kind = "read", .random = false, .write_percent = 0 },
        { .kind = "write", .random = false, .write_percent = 100 },
    };
    char *copy = strdup(text), *rest = copy;
    if (!copy)
        die("%s", strerror(errno));
    const char *kind = strsep(&rest, ","), *bs = strsep(&rest, ","), *qd = strsep(&rest, ",");
    struct job job = { .kind = NULL };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kind, kinds[i].kind) == 0)
            job = kinds[i];
    if (!job.kind)
        die("--job %s: a job is randread, randwrite, randrw, read or write", text);
    job.text = text;
    uint64_t block = bs ? size(text, bs) : PAGE;
    if (block == 0 || block % SECTOR || block > 64 << 20)
        die("--job %s: the block size is a multiple of 512, up to 64M", text);
    job.bs = (uint32_t)block;
    job.qd = qd ? (uint32_t)number(text, qd, 32768) : 1;
    if (job.qd == 0)
        die("--job %s: the queue depth is at least 1", text);
    size_t length = rest ? strlen(rest) : 0;
    if (length && rest[length - 1] == 'r') {
        rest[length - 1] = 0;
        job.count = number(text, rest, UINT64_MAX - 1);
    } else {
        job.seconds = rest ? duration(text, rest) : 2;
    }
    if (job.seconds <= 0 && job.count == 0)
        die("--job %s: that is no time and no request", text);
    free(copy);
    return job;
}

int main(int argc, char **argv)
{
    enum { VERIFY = 256, POLL, INDIRECT, SEGMENTS, NO_EVENT_IDX, QUEUES, RING, SPAN, SEED, WAIT, LIMIT };
    static const struct option names[] = {
        { "job", required_argument, NULL, 'j' },
        { "churn", required_argument, NULL, 'c' },
        { "pid", required_argument, NULL, 'p' },
        { "help", no_argument, NULL, 'h' },
        { "verify", no_argument, NULL, VERIFY },
        { "poll", no_argument, NULL, POLL },
        { "indirect", no_argument, NULL, INDIRECT },
        { "segments", no_argument, NULL, SEGMENTS },
        { "no-event-idx", no_argument, NULL, NO_EVENT_IDX },
        { "queues", required_argument, NULL, QUEUES },
        { "ring", required_argument, NULL, RING },
        { "span", required_argument, NULL, SPAN },
        { "seed", required_argument, NULL, SEED },
        { "wait", required_argument, NULL, WAIT },
        { "limit", required_argument, NULL, LIMIT },
        { 0 },
    };
    struct options opt = { .event_idx = true, .queues = 1, .seed = 1 };
    static struct job jobs[MAX_JOBS];
    unsigned job_count = 0, rounds = 0;
    double limit = 0, job_seconds = 0;

    for (int c; (c = getopt_long(argc, argv, "j:c:p:h", names, NULL)) != -1;) {
        switch (c) {
        case 'j':
            if (job_count == MAX_JOBS)
                die("--job: %d at most", MAX_JOBS);
            jobs[job_count++] = parse_job(optarg);
            break;
        case 'p':
            if (pid_count == MAX_PIDS)
                die("--pid: %d at most", MAX_PIDS);
            pids[pid_count++] = (pid_t)number("--pid", optarg, INT32_MAX);
            break;
        case 'c': rounds = (unsigned)number("--churn", optarg, INT32_MAX); break;
        case VERIFY: opt.verify = true; break;
        case POLL: opt.poll = true; break;
        case INDIRECT: opt.indirect = true; break;
        case SEGMENTS: opt.segments = true; break;
        case NO_EVENT_IDX: opt.event_idx = false; break;
        case QUEUES: opt.queues = (unsigned)number("--queues", optarg, MAX_QUEUES); break;
        case RING: opt.ring = (unsigned)number("--ring", optarg, 32768); break;
        case SPAN: opt.span = size("--span", optarg); break;
        case SEED: opt.seed = number("--seed", optarg, UINT64_MAX); break;
        case WAIT: opt.wait = duration("--wait", optarg); break;
        case LIMIT: limit = duration("--limit", optarg); break;
        case 'h': fputs(usage, stdout); return 0;
        default: return 1;      /* getopt_long has said it */
        }
    }
    if (optind + 1 != argc || (job_count == 0) == (rounds == 0))
        die("give one socket, and either --job or --churn; loadgen --help says more");
    if (opt.queues == 0)
        die("--queues: at least 1");
    if (opt.ring & (opt.ring - 1))
        die("--ring %u: a split ring's size is a power of two", opt.ring);
    opt.socket = argv[optind];
    for (unsigned i = 0; i < job_count; i++)
        job_seconds += jobs[i].seconds;

    start_time_limit(limit > 0 ? limit : 60 + opt.wait + 4 * job_seconds + 0.05 * rounds);
    if (rounds) {
        churn(&opt, rounds);
        return 0;
    }
    return run_jobs(&opt, jobs, job_count) ? 0 : 1;
}
