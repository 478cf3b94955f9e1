#include "block.h"

#include <sanitizer/asan_interface.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

// Saves the registers that a call preserves and the stack pointer, and takes over those of another stack.
extern "C" void cuda_on_cpu_switch(void** from, void* to);
asm(R"(
.text
.globl cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");

namespace ssdml::cuda {
alignas(16) thread_local unsigned char shared_memory[cuda_on_cpu::kMostShared];  // what launch.h declares
}

extern "C" __attribute__((visibility("default"))) void cuda_on_cpu_set_shared(std::size_t bytes) {
  cuda_on_cpu::device_shared = bytes;
}

namespace cuda_on_cpu {
namespace {

constexpr unsigned kWarp = 32, kMostThreads = 1024;
constexpr std::size_t kStack = 64 << 10;

enum class State { ready, at_collective, at_barrier, at_grid_barrier, returned };

struct Thread {
  std::unique_ptr<std::byte[]> stack;
  void* stack_pointer;
  State state;
  Collective collective;
  unsigned mask;
  std::uint64_t value;
};

std::vector<Thread> threads;           // of the block that runs, or of all blocks that run together
std::vector<std::uint64_t> exchanged;  // by thread: its value in its last collective
unsigned current;                      // thread
unsigned first_block;                  // that of thread 0
void* scheduler;                       // its stack pointer while a thread runs
const std::function<void()>* body;

void yield(State state) {
  threads[current].state = state;
  cuda_on_cpu_switch(&threads[current].stack_pointer, scheduler);
}

void run() {
  (*body)();
  yield(State::returned);
}

/// A stack on which the first switch arrives at the beginning of run().
void prepare(Thread& thread) {
  if (!thread.stack) thread.stack.reset(new std::byte[kStack]);
  auto top = reinterpret_cast<std::uintptr_t>(thread.stack.get() + kStack) / 16 * 16;
  auto* frame = reinterpret_cast<void**>(top) - 8;
  std::fill(frame, frame + 8, nullptr);  // six registers, the address below, and no caller
  frame[6] = reinterpret_cast<void*>(&run);
  thread.stack_pointer = frame;
  thread.state = State::ready;
}

unsigned in_order(unsigned i, unsigned count) { return descending ? count - 1 - i : i; }

/// Lets the lanes of one mask go on, if all of them have made the same call.
void release(unsigned first, unsigned lane) {
  const auto [collective, mask] = std::pair(threads[first + lane].collective, threads[first + lane].mask);
  current = first + lane;
  if (!(mask >> lane & 1)) fail("a lane is not in the mask of its own collective");
  for (unsigned q = 0; q < kWarp; ++q) {
    if (!(mask >> q & 1)) continue;
    const Thread& other = threads[first + q];
    if (other.state == State::returned) fail("waits for a lane that has returned");
    if (other.state != State::at_collective) return;
    if (other.mask != mask || other.collective != collective) fail("lanes of one mask make different calls");
  }
  for (unsigned q = 0; q < kWarp; ++q) {
    if (!(mask >> q & 1)) continue;
    exchanged[first + q] = threads[first + q].value;
    threads[first + q].state = State::ready;
  }
}

/// Runs the lanes of a warp that can run, each to its next wait; false if there were none.
bool run_warp(unsigned first) {
  bool ran = false;
  for (unsigned i = 0; i < kWarp; ++i) {
    const unsigned t = first + in_order(i, kWarp);
    if (threads[t].state != State::ready) continue;
    ran = true;
    current = t;
    thread_index = Index(t % block_size.x);
    block_index = Index(first_block + t / block_size.x);
    cuda_on_cpu_switch(&scheduler, threads[t].stack_pointer);
  }
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (threads[first + lane].state == State::at_collective) release(first, lane);
  return ran;
}

/// Lets a block's threads go on from a barrier that all which have not returned have reached; false if none waits.
bool release_block(unsigned first) {
  bool any = false, at_grid_barrier = false;
  for (unsigned t = first; t < first + block_size.x; ++t) {
    current = t;
    if (threads[t].state == State::at_collective) fail("waits for lanes that are at a barrier");
    at_grid_barrier |= threads[t].state == State::at_grid_barrier;
    if (threads[t].state != State::at_barrier) continue;
    threads[t].state = State::ready;
    any = true;
  }
  if (any && at_grid_barrier) fail("threads of one block are at different barriers");
  return any;
}

/// The same for all threads, none of which may have returned; false if all have.
bool release_grid() {
  unsigned waiting = 0;
  for (Thread& thread : threads) {
    if (thread.state != State::at_grid_barrier) continue;
    thread.state = State::ready;
    ++waiting;
  }
  if (waiting != 0 && waiting != threads.size()) fail("a barrier of the grid waits for threads that have returned");
  return waiting != 0;
}

bool release_barriers() {
  bool any = false;
  for (unsigned first = 0; first < threads.size(); first += block_size.x) any |= release_block(first);
  return any || release_grid();
}

}  // namespace

void launch(unsigned blocks, unsigned count, std::size_t shared_bytes, bool together,
            const std::function<void()>& kernel) {
  if (count == 0 || count % kWarp != 0 || count > kMostThreads)
    fail("blocks must hold whole warps, 1024 threads at most");
  grid_size = Index(std::min(blocks, most_blocks));
  block_size = Index(count);
  body = &kernel;
  const unsigned at_once = together ? grid_size.x : 1;
  threads.resize(at_once * count);
  exchanged.resize(threads.size());
  ASAN_UNPOISON_MEMORY_REGION(ssdml::cuda::shared_memory, kMostShared);
  std::memset(ssdml::cuda::shared_memory, 0xff, shared_bytes);
  ASAN_POISON_MEMORY_REGION(ssdml::cuda::shared_memory + shared_bytes, kMostShared - shared_bytes);
  for (unsigned b = 0; b < grid_size.x; b += at_once) {
    first_block = together ? 0 : in_order(b, grid_size.x);
    for (Thread& thread : threads) prepare(thread);
    const auto warps = static_cast<unsigned>(threads.size() / kWarp);
    do {
      for (unsigned w = 0; w < warps; ++w)
        while (run_warp(in_order(w, warps) * kWarp)) {
        }
    } while (release_barriers());
  }
}

void block_barrier() { yield(State::at_barrier); }
void grid_barrier() {
  if (threads.size() != std::size_t{grid_size.x} * block_size.x)
    fail("blocks that do not run together wait for each other");
  yield(State::at_grid_barrier);
}

const std::uint64_t* exchange(Collective collective, unsigned mask, std::uint64_t value) {
  Thread& self = threads[current];
  self.collective = collective;
  self.mask = mask;
  self.value = value;
  yield(State::at_collective);
  return &exchanged[current / kWarp * kWarp];
}

void fail(const char* reason) {
  std::fprintf(stderr, "CUDA on CPU: block %u, thread %u: %s\n", block_index.x, current, reason);
  std::abort();
}

}  // namespace cuda_on_cpu
