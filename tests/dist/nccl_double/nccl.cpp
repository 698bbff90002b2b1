// A double of libnccl: the functions that haggle calls, on memory of the host, between processes or threads of one machine.
//
// Ranks meet in a file that all map. A pair of ranks has a lane for each direction: a message is posted (group, kind, bytes),
// taken by who receives it, and goes through a ring. Nothing runs by itself: a communicator that does not block goes on when it
// is asked how it goes, as NCCL's user must.
//
// What NCCL answers with a hang or a fault is an error here, in words: a send outside of a group, lengths that differ between
// peers, ranks in groups of different numbers, a message that nobody takes, a group begun while one is under way. Use of a
// communicator that is gone ends the process.
//
// Environment:  NCCL_DOUBLE_DIR           where the file lies (default /dev/shm)
//               NCCL_DOUBLE_VERSION=N     says it is that version
//               NCCL_DOUBLE_INIT=TEXT     a communicator cannot be begun, with this as the reason
//               NCCL_DOUBLE_STALL=R:G     rank R never gets through its group G
//               NCCL_DOUBLE_FAIL=R:G      at rank R its group G fails
//               NCCL_DOUBLE_LOG=FILE      each group is written down there, a line: rank, group, its moves
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace {

enum Code { SUCCESS = 0, SYSTEM = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE = 6, IN_PROGRESS = 7 };
enum Kind : uint64_t { SEND = 1, GATHER = 2, SCATTER_SUM = 3, SUM_ALL = 4 };

constexpr size_t RING = 256 << 10;
constexpr int MOST = 16;

// Messages from one rank to another. `posted` and `taken` count them; the ring's counters are of the message at hand.
struct Lane {
    std::atomic<uint64_t> posted, taken;
    std::atomic<uint64_t> written, read;
    uint64_t group, kind, bytes;
    unsigned char ring[RING];
};

struct Head {
    std::atomic<int> world, joined, left;
    std::atomic<int> there[MOST];
    // Who ended it, from 1, and why.
    std::atomic<int> ended;
    std::atomic<int> told;
    char why[512];
};

// A move of the group at hand, and how far it is.
struct Move {
    Kind kind;
    bool sends;
    int peer;
    unsigned char* at;
    size_t bytes, done;
    bool posted, over;
};

// Numbers that are added when all have come: in the order of ranks, which is not the tree that haggle adds in.
struct Sum {
    float* into;
    std::vector<std::vector<float>> of;
};

struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

struct Comm {
    uint64_t magic;
    int rank, world;
    bool blocking, joined, finishing;
    std::string path;
    Head* head;
    size_t mapped;
    uint64_t group;
    std::vector<Move> moves;
    bool under_way;
    Code failed;
    std::vector<Sum> sums;
};

constexpr uint64_t LIVE = 0x6e63636c646f7562, GONE = 0x676f6e65676f6e65;

thread_local int depth = 0;
thread_local Comm* grouped = nullptr;
// Whose groups this thread's are where they are empty: they count all the same.
thread_local Comm* own = nullptr;
thread_local char last[600] = "";

Code fail(Code code, const char* format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(last, sizeof last, format, list);
    va_end(list);
    return code;
}

const char* env(const char* name) {
    const char* text = getenv(name);
    return text && *text ? text : nullptr;
}

// True where NAME=R:G names this rank and a group that is not before G.
bool told(const char* name, const Comm* comm, bool later) {
    int rank;
    unsigned long long group;
    const char* text = env(name);
    if (!text || sscanf(text, "%d:%llu", &rank, &group) != 2) return false;
    return rank == comm->rank && (later ? comm->group >= group : comm->group == group);
}

Comm* checked(void* handle, const char* function) {
    Comm* comm = static_cast<Comm*>(handle);
    if (!comm || comm->magic != LIVE) {
        fprintf(stderr, "nccl double: %s on a communicator that is %s\n", function, comm ? "gone" : "null");
        abort();
    }
    return comm;
}

Lane* lane(const Comm* comm, int from, int to) {
    auto* lanes = reinterpret_cast<unsigned char*>(comm->head) + 4096;
    return reinterpret_cast<Lane*>(lanes + (size_t(from) * comm->world + to) * sizeof(Lane));
}

// Ends what all ranks do; the first one's reason stays.
void end(Comm* comm, const char* why) {
    int none = 0;
    if (comm->head->told.compare_exchange_strong(none, 1)) {
        snprintf(comm->head->why, sizeof comm->head->why, "%s", why);
        comm->head->ended.store(comm->rank + 1);
    }
}

Code breaks(Comm* comm, Code code) {
    end(comm, last);
    comm->failed = code;
    comm->under_way = false;
    return code;
}

Code post(Comm* comm, Move& move) {
    Lane* to = lane(comm, comm->rank, move.peer);
    if (!move.posted) {
        if (to->posted.load() != to->taken.load()) return IN_PROGRESS;
        to->group = comm->group, to->kind = move.kind, to->bytes = move.bytes;
        to->written.store(0), to->read.store(0);
        to->posted.fetch_add(1);
        move.posted = true;
    }
    while (move.done < move.bytes) {
        size_t at = move.done % RING, room = RING - (move.done - to->read.load());
        size_t n = std::min({room, RING - at, move.bytes - move.done});
        if (n == 0) return IN_PROGRESS;
        memcpy(to->ring + at, move.at + move.done, n);
        to->written.store(move.done += n);
    }
    if (to->posted.load() != to->taken.load()) return IN_PROGRESS;
    move.over = true;
    return SUCCESS;
}

Code take(Comm* comm, Move& move) {
    Lane* from = lane(comm, move.peer, comm->rank);
    if (from->posted.load() == from->taken.load()) return IN_PROGRESS;
    if (from->group != comm->group)
        return breaks(comm, fail(INVALID_USAGE, "rank %d is in its group %llu, rank %d sent in its group %llu: they would hang",
            comm->rank, (unsigned long long)comm->group, move.peer, (unsigned long long)from->group));
    if (from->kind != move.kind || from->bytes != move.bytes)
        return breaks(comm, fail(INVALID_USAGE, "rank %d receives %zu bytes from rank %d, which sends %llu%s: they would hang",
            comm->rank, move.bytes, move.peer, (unsigned long long)from->bytes,
            from->kind == move.kind ? "" : " in another collective"));
    while (move.done < move.bytes) {
        size_t at = move.done % RING, there = from->written.load() - move.done;
        size_t n = std::min(there, RING - at);
        if (n == 0) return IN_PROGRESS;
        memcpy(move.at + move.done, from->ring + at, n);
        from->read.store(move.done += n);
    }
    from->taken.fetch_add(1);
    move.over = true;
    return SUCCESS;
}

// A message of a group that is behind this rank is one that nobody will take.
Code left_lying(Comm* comm) {
    for (int peer = 0; peer < comm->world; peer++) {
        Lane* from = lane(comm, peer, comm->rank);
        if (from->posted.load() != from->taken.load() && from->group < comm->group + (comm->under_way ? 0 : 1))
            return breaks(comm, fail(INVALID_USAGE, "rank %d sent in its group %llu what rank %d does not receive", peer,
                (unsigned long long)from->group, comm->rank));
    }
    return SUCCESS;
}

Code goes_on(Comm* comm) {
    if (comm->failed != SUCCESS) return comm->failed;
    if (int who = comm->head->ended.load(); who && !comm->finishing) {
        fail(REMOTE, "rank %d ended it: %s", who - 1, comm->head->why);
        return comm->failed = REMOTE;
    }
    if (!comm->joined) {
        if (comm->head->joined.load() < comm->world) return IN_PROGRESS;
        comm->joined = true;
        if (comm->rank == 0) unlink(comm->path.c_str());
    }
    if (comm->finishing) return comm->head->left.load() < comm->world ? IN_PROGRESS : SUCCESS;
    if (!comm->under_way) return SUCCESS;
    if (told("NCCL_DOUBLE_STALL", comm, true)) return IN_PROGRESS;
    if (told("NCCL_DOUBLE_FAIL", comm, false)) return breaks(comm, fail(SYSTEM, "the double was told to fail here"));
    bool all = true;
    for (Move& move : comm->moves) {
        if (move.over) continue;
        Code code = move.sends ? post(comm, move) : take(comm, move);
        if (code != SUCCESS && code != IN_PROGRESS) return code;
        all = all && code == SUCCESS;
    }
    if (Code code = left_lying(comm)) return code;
    if (!all) return IN_PROGRESS;
    for (Sum& sum : comm->sums) {
        std::vector<float> all = sum.of[0];
        for (int rank = 1; rank < comm->world; rank++)
            for (size_t i = 0; i < all.size(); i++) all[i] += sum.of[rank][i];
        memcpy(sum.into, all.data(), all.size() * sizeof(float));
    }
    comm->under_way = false;
    comm->moves.clear();
    comm->sums.clear();
    return SUCCESS;
}

Code waits(Comm* comm) {
    Code code = goes_on(comm);
    while (comm->blocking && code == IN_PROGRESS) sched_yield(), code = goes_on(comm);
    return code;
}

Code enqueue(Comm* comm, const char* function, std::initializer_list<Move> moves) {
    if (depth == 0) return fail(INVALID_USAGE, "%s outside of a group: it waits for a peer that may wait for this rank", function);
    if (grouped && grouped != comm) return fail(INVALID_USAGE, "%s: another communicator in one group", function);
    if (comm->under_way) return fail(INVALID_USAGE, "%s while group %llu is under way", function, (unsigned long long)comm->group);
    grouped = comm;
    for (const Move& move : moves) {
        if (move.peer < 0 || move.peer >= comm->world) return fail(INVALID_ARGUMENT, "%s: there is no rank %d", function, move.peer);
        for (const Move& other : comm->moves)
            if (other.sends == move.sends && other.peer == move.peer)
                return fail(INVALID_USAGE, "%s: two moves with rank %d in one group, which the double does not do", function, move.peer);
        comm->moves.push_back(move);
    }
    return SUCCESS;
}

void write_down(const Comm* comm) {
    const char* path = env("NCCL_DOUBLE_LOG");
    if (!path) return;
    std::string line = std::to_string(comm->rank) + " " + std::to_string(comm->group);
    for (const Move& move : comm->moves)
        line += std::string(move.kind == GATHER ? " gather" : " ") + (move.sends ? ">" : "<") + std::to_string(move.peer) + ":" + std::to_string(move.bytes);
    line += "\n";
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file < 0) return;
    if (write(file, line.data(), line.size()) < 0) perror("nccl double");
    close(file);
}

// `count` numbers of each rank come here: those at `from + step * rank` of every rank's.
Code sums(Comm* comm, const char* function, Kind kind, const void* from, void* into, size_t count, size_t step, int type, int op) {
    if (type != 7 || op != 0) return fail(INVALID_ARGUMENT, "%s: the double adds f32 alone", function);
    auto* own = static_cast<const float*>(from);
    comm->sums.push_back({static_cast<float*>(into), std::vector<std::vector<float>>(comm->world, std::vector<float>(count))});
    auto& of = comm->sums.back().of;
    memcpy(of[comm->rank].data(), own + step * comm->rank, count * sizeof(float));
    for (int peer = 0; peer < comm->world; peer++) {
        if (peer == comm->rank) continue;
        auto* piece = reinterpret_cast<unsigned char*>(const_cast<float*>(own + step * peer));
        auto* theirs = reinterpret_cast<unsigned char*>(of[peer].data());
        Code code = enqueue(comm, function, {{kind, true, peer, piece, count * sizeof(float), 0, false, false}, {kind, false, peer, theirs, count * sizeof(float), 0, false, false}});
        if (code != SUCCESS) return code;
    }
    return SUCCESS;
}

} // namespace

extern "C" {

struct ncclUniqueId {
    char internal[128];
};

// NVIDIA's takes memory of GPUs alone.
int ncclTakesHostMemory = 1;

Code ncclGetVersion(int* version) {
    const char* text = env("NCCL_DOUBLE_VERSION");
    *version = text ? atoi(text) : 23203;
    return SUCCESS;
}

Code ncclGetUniqueId(ncclUniqueId* id) {
    static std::atomic<int> count{0};
    memset(id, 0, sizeof *id);
    auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    if (const char* at = env("NCCL_COMM_ID")) snprintf(id->internal, sizeof id->internal, "%s", at);
    else snprintf(id->internal, sizeof id->internal, "%d-%d-%lld", getpid(), count++, (long long)now);
    return SUCCESS;
}

Code ncclCommInitRankConfig(Comm** made, int world, ncclUniqueId id, int rank, Config* config) {
    *made = nullptr;
    if (const char* why = env("NCCL_DOUBLE_INIT")) return fail(SYSTEM, "%s", why);
    if (config->magic != 0xcafebeef) return fail(INVALID_ARGUMENT, "a config without its magic number");
    if (world < 1 || world > MOST || rank < 0 || rank >= world) return fail(INVALID_ARGUMENT, "rank %d of %d", rank, world);
    std::string name = id.internal;
    for (char& c : name) c = isalnum((unsigned char)c) ? c : '-';
    const char* dir = env("NCCL_DOUBLE_DIR");
    std::string path = std::string(dir ? dir : "/dev/shm") + "/nccl-double-" + name;
    size_t bytes = 4096 + sizeof(Lane) * world * world;
    int file = open(path.c_str(), O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, bytes) != 0) return fail(SYSTEM, "%s: %s", path.c_str(), strerror(errno));
    void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED) return fail(SYSTEM, "%s: %s", path.c_str(), strerror(errno));
    Comm* comm = new Comm{LIVE, rank, world, config->blocking != 0, false, false, path, static_cast<Head*>(map), bytes, 0, {}, false, SUCCESS, {}};
    int none = 0;
    if (!comm->head->world.compare_exchange_strong(none, world) && none != world)
        return fail(INVALID_USAGE, "rank %d says there are %d ranks, another says %d", rank, world, none);
    if (comm->head->there[rank].exchange(1)) return fail(INVALID_USAGE, "rank %d is there twice", rank);
    comm->head->joined.fetch_add(1);
    *made = own = comm;
    return waits(comm);
}

Code ncclCommGetAsyncError(void* handle, Code* code) {
    *code = goes_on(checked(handle, "ncclCommGetAsyncError"));
    return SUCCESS;
}

static void forget(Comm* comm) {
    munmap(comm->head, comm->mapped);
    // It is never freed: whoever uses it again is seen.
    comm->magic = GONE;
}

Code ncclCommAbort(void* handle) {
    Comm* comm = checked(handle, "ncclCommAbort");
    char why[64];
    snprintf(why, sizeof why, "rank %d aborted", comm->rank);
    end(comm, why);
    if (!comm->joined) unlink(comm->path.c_str());
    forget(comm);
    return SUCCESS;
}

Code ncclCommFinalize(void* handle) {
    Comm* comm = checked(handle, "ncclCommFinalize");
    if (comm->under_way) return fail(INVALID_USAGE, "ncclCommFinalize while group %llu is under way", (unsigned long long)comm->group);
    if (Code code = left_lying(comm)) return code;
    comm->finishing = true;
    comm->head->left.fetch_add(1);
    return waits(comm);
}

Code ncclCommDestroy(void* handle) {
    Comm* comm = checked(handle, "ncclCommDestroy");
    if (!comm->finishing) fprintf(stderr, "nccl double: ncclCommDestroy before ncclCommFinalize\n"), abort();
    forget(comm);
    return SUCCESS;
}

const char* ncclGetErrorString(Code code) {
    switch (code) {
    case SUCCESS: return "no error";
    case SYSTEM: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case INVALID_ARGUMENT: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case INVALID_USAGE: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case REMOTE: return "remote process exited or there was a network error";
    case IN_PROGRESS: return "NCCL operation in progress";
    }
    return "unknown result code";
}

const char* ncclGetLastError(void*) { return last; }

Code ncclGroupStart() {
    depth++;
    return SUCCESS;
}

Code ncclGroupEnd() {
    if (depth == 0) return fail(INVALID_USAGE, "ncclGroupEnd without ncclGroupStart");
    if (--depth > 0) return SUCCESS;
    Comm* comm = grouped ? grouped : own;
    grouped = nullptr;
    if (!comm || comm->magic != LIVE) return SUCCESS;
    if (comm->under_way) return fail(INVALID_USAGE, "a group while group %llu is under way", (unsigned long long)comm->group);
    comm->group++;
    comm->under_way = true;
    write_down(comm);
    return waits(comm);
}

Code ncclSend(const void* from, size_t n, int type, int peer, void* handle, void*) {
    Comm* comm = checked(handle, "ncclSend");
    if (type > 1) return fail(INVALID_ARGUMENT, "ncclSend: the double moves bytes alone");
    return enqueue(comm, "ncclSend", {{SEND, true, peer, (unsigned char*)from, n, 0, false, false}});
}

Code ncclRecv(void* into, size_t n, int type, int peer, void* handle, void*) {
    Comm* comm = checked(handle, "ncclRecv");
    if (type > 1) return fail(INVALID_ARGUMENT, "ncclRecv: the double moves bytes alone");
    return enqueue(comm, "ncclRecv", {{SEND, false, peer, (unsigned char*)into, n, 0, false, false}});
}

Code ncclReduceScatter(const void* from, void* into, size_t n, int type, int op, void* handle, void*) {
    return sums(checked(handle, "ncclReduceScatter"), "ncclReduceScatter", SCATTER_SUM, from, into, n, n, type, op);
}

Code ncclAllReduce(const void* from, void* into, size_t n, int type, int op, void* handle, void*) {
    return sums(checked(handle, "ncclAllReduce"), "ncclAllReduce", SUM_ALL, from, into, n, 0, type, op);
}

Code ncclAllGather(const void* from, void* into, size_t n, int type, void* handle, void*) {
    Comm* comm = checked(handle, "ncclAllGather");
    if (type > 1) return fail(INVALID_ARGUMENT, "ncclAllGather: the double moves bytes alone");
    auto* all = static_cast<unsigned char*>(into);
    for (int peer = 0; peer < comm->world; peer++) {
        if (peer == comm->rank) continue;
        Code code = enqueue(comm, "ncclAllGather", {{GATHER, true, peer, (unsigned char*)from, n, 0, false, false},
            {GATHER, false, peer, all + peer * n, n, 0, false, false}});
        if (code != SUCCESS) return code;
    }
    if (all + comm->rank * n != from) memmove(all + comm->rank * n, from, n);
    return SUCCESS;
}
}
