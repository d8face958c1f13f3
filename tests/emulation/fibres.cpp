// A block's threads as fibres, see cuda_runtime.h.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "tensor_cores.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr size_t kStack = 128 * 1024;

enum class State { ready, waits_for_block, waits_for_warp, done };

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fibre {
  State state = State::done;
  dim3 index;
  uint64_t received[32];                 // what the lanes brought to the last exchange
  std::deque<std::vector<Copy>> copies;  // groups, the last one not committed yet
  jmp_buf here;
  std::unique_ptr<char[]> stack{new char[kStack]};
};

struct Warp {
  unsigned arrived = 0;
  uint64_t brought[32];
};

std::vector<Fibre> fibres;
std::vector<Warp> warps;
std::vector<char> shared;
const std::function<void()>* body;
std::string failure;  // of the running fibre: the scheduler throws it
jmp_buf scheduler;
int current, threads;
std::mt19937 generator;

// setjmp and longjmp switch without a system call; makecontext only starts a fibre.
void suspend() {
  if (!_setjmp(fibres[current].here)) _longjmp(scheduler, 1);
}

void fibre_main() {
  while (true) {
    (*body)();
    fibres[current].state = State::done;
    suspend();
  }
}

void create(int count) {
  if (int(fibres.size()) >= count) return;
  const int old = int(fibres.size());
  fibres.resize(count);
  static ucontext_t start;
  for (int i = old; i < count; ++i) {
    getcontext(&start);
    start.uc_stack = {fibres[i].stack.get(), 0, kStack};
    makecontext(
        &start,
        +[] {
          // Comes back once, to be resumed by longjmp.
          if (!_setjmp(fibres[current].here)) _longjmp(scheduler, 1);
          fibre_main();
        },
        0);
    current = i;
    if (!_setjmp(scheduler)) setcontext(&start);
  }
}

// The lanes that the block has of the warp that begins with thread `first`.
unsigned lanes_of_warp(int first) { return threads - first < 32 ? (1u << (threads - first)) - 1 : ~0u; }

[[noreturn]] void fail(const std::string& message) {
  fibres.clear();  // their stacks stand in the middle of the kernel
  throw std::runtime_error("emulated CUDA kernel: " + message);
}

void resume(int i) {
  current = i;
  threadIdx = fibres[i].index;
  if (!_setjmp(scheduler)) _longjmp(fibres[i].here, 1);
}

void run_block() {
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  for (Warp& warp : warps) warp.arrived = 0;
  for (int i = 0; i < threads; ++i) {
    fibres[i].state = State::ready;
    fibres[i].copies.assign(1, {});
  }
  std::fill(shared.begin(), shared.end(), char(0xff));
  while (true) {
    std::shuffle(order.begin(), order.end(), generator);
    bool moved = false;
    int alive = 0, at_barrier = 0;
    for (const int i : order) {
      if (fibres[i].state != State::ready) continue;
      resume(i);
      if (!failure.empty()) fail(std::exchange(failure, {}));
      moved = true;
    }
    for (int i = 0; i < threads; ++i) {
      alive += fibres[i].state != State::done;
      at_barrier += fibres[i].state == State::waits_for_block;
    }
    if (alive == 0) return;
    if (at_barrier == alive) {
      for (int i = 0; i < threads; ++i) {
        if (fibres[i].state == State::waits_for_block) fibres[i].state = State::ready;
      }
    } else if (!moved) {
      fail(std::to_string(alive) + " of " + std::to_string(threads) + " threads wait, " +
           std::to_string(at_barrier) + " of them for the block, and none can go on");
    }
  }
}

}  // namespace

void* shared_memory() { return reinterpret_cast<void*>((uintptr_t(shared.data()) + 127) / 128 * 128); }

void block_barrier() {
  fibres[current].state = State::waits_for_block;
  suspend();
}

void warp_barrier(unsigned mask) {
  const int first = current / 32 * 32, lane = current % 32;
  Warp& warp = warps[current / 32];
  mask &= lanes_of_warp(first);
  warp.arrived |= 1u << lane;
  if ((warp.arrived & mask) != mask) {
    fibres[current].state = State::waits_for_warp;
    suspend();
    return;
  }
  warp.arrived &= ~mask;
  for (int other = 0; other < 32; ++other) {
    if (!(mask >> other & 1)) continue;
    Fibre& fibre = fibres[first + other];
    std::copy_n(warp.brought, 32, fibre.received);
    fibre.state = State::ready;
  }
}

uint64_t exchange(unsigned mask, uint64_t bits, int source) {
  const int lane = current % 32;
  mask &= lanes_of_warp(current - lane);
  if (!(mask >> source & 1) || !(mask >> lane & 1)) {
    failure = "lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
              " in a shuffle whose mask lacks one of them";
    suspend();
  }
  warps[current / 32].brought[lane] = bits;
  warp_barrier(mask);
  return fibres[current].received[source];
}

const uint64_t* gather(uint64_t bits) {
  warps[current / 32].brought[current % 32] = bits;
  warp_barrier(~0u);
  return fibres[current].received;
}

unsigned ballot(unsigned mask, bool vote) {
  const int lane = current % 32;
  warps[current / 32].brought[lane] = vote;
  warp_barrier(mask);
  unsigned result = 0;
  for (int other = 0; other < 32; ++other) {
    if (mask >> other & 1 && fibres[current].received[other]) result |= 1u << other;
  }
  return result & lanes_of_warp(current - lane);
}

void copy_later(void* to, const void* from, size_t bytes) {
  if (uintptr_t(to) % bytes != 0 || uintptr_t(from) % bytes != 0) {
    failure = "an asynchronous copy of " + std::to_string(bytes) + " bytes is not aligned to them";
    suspend();
  }
  fibres[current].copies.back().push_back({to, from, bytes});
}

void commit_copies() { fibres[current].copies.emplace_back(); }

void wait_for_copies(size_t but_groups) {
  auto& copies = fibres[current].copies;
  for (; copies.size() > but_groups + 1; copies.pop_front()) {
    for (const Copy& copy : copies.front()) std::memcpy(copy.to, copy.from, copy.bytes);
  }
}

namespace {

struct Launches {
  int64_t number = 0, blocks = 0;
};
std::map<std::string, Launches> launches;

}  // namespace

void count_launch(const char* name, int64_t blocks) {
  Launches& its = launches[name];
  ++its.number;
  its.blocks += blocks;
}

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  static std::mutex one_launch_at_a_time;
  const std::lock_guard guard(one_launch_at_a_time);
  threads = int(block.x * block.y * block.z);
  create(threads);
  warps.resize((threads + 31) / 32);
  for (int i = 0; i < threads; ++i) {
    fibres[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  }
  shared.resize(shared_bytes + 128);
  body = &kernel;
  blockDim = block;
  gridDim = grid;
  // Blocks in the order of a random step through their ring.
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  uint64_t step = 1 + generator() % blocks;
  while (std::gcd(step, blocks) != 1) ++step;
  uint64_t b = generator() % blocks;
  for (uint64_t count = 0; count < blocks; ++count, b = (b + step) % blocks) {
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    run_block();
  }
}

}  // namespace emulation

// For the tests, by ctypes: launches of a name, and their blocks, since they were forgotten.
#define UQFORCE_VISIBLE extern "C" __attribute__((visibility("default")))

UQFORCE_VISIBLE int64_t uqforce_emulation_launches(const char* name) {
  return emulation::launches[name].number;
}
UQFORCE_VISIBLE int64_t uqforce_emulation_blocks(const char* name) {
  return emulation::launches[name].blocks;
}
UQFORCE_VISIBLE void uqforce_emulation_forget() { emulation::launches.clear(); }
