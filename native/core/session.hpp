// An engine with its memory and threads: allocated once, then one call an inference.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#define BITSKIP_HAS_MMAP 1
#else
#define BITSKIP_HAS_MMAP 0
#endif

#include "bitskip.h"
#include "pool.hpp"

namespace bitskip {

// Zeroed memory on a 64-byte boundary. With `guarded`, its last byte lies before a page that may not be touched, so
// that a read beyond the end is a crash; the boundary then holds only as far as the size allows.
class Block {
 public:
  Block(std::size_t bytes, bool guarded) : bytes_(bytes) {
#if BITSKIP_HAS_MMAP
    if (guarded) {
      const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
      mapped_ = (bytes + page - 1) / page * page + page;
      void *map = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (map == MAP_FAILED) throw std::bad_alloc();
      base_ = map;
      mprotect(static_cast<char *>(map) + mapped_ - page, page, PROT_NONE);
      data_ = static_cast<char *>(map) + mapped_ - page - bytes;
      return;
    }
#endif
    (void)guarded;
    base_ = std::calloc(bytes + 64, 1);
    if (!base_) throw std::bad_alloc();
    data_ = static_cast<char *>(base_) + (64 - reinterpret_cast<std::uintptr_t>(base_) % 64) % 64;
  }
  Block(Block &&other) noexcept : bytes_(other.bytes_), mapped_(other.mapped_), base_(std::exchange(other.base_, nullptr)), data_(other.data_) {}
  Block(const Block &) = delete;
  Block &operator=(const Block &) = delete;
  Block &operator=(Block &&) = delete;
  ~Block() {
#if BITSKIP_HAS_MMAP
    if (base_ && mapped_) {
      munmap(base_, mapped_);
      return;
    }
#endif
    std::free(base_);
  }
  char *data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  std::size_t bytes_, mapped_ = 0;
  void *base_ = nullptr;
  char *data_ = nullptr;
};

// Where one output lies in the arena, and where that of all images goes, one after the other.
struct Output {
  float *to;
  std::size_t offset, floats; /* bytes; floats an image */
};

class Session {
 public:
  Session(const std::vector<bsk_op> &ops, std::size_t arena_bytes, bsk_isa isa, int threads, bool guarded) : pool_(threads) {
    bsk_sizes sizes;
    check(bsk_engine_bytes(ops.data(), ops.size(), arena_bytes, isa, &sizes));
    blocks_.emplace_back(sizes.engine_bytes, guarded);
    check(bsk_engine_init(ops.data(), ops.size(), arena_bytes, isa, blocks_[0].data(), sizes.engine_bytes, &engine_));
    for (int i = 0; i < threads; ++i) {
      arenas_.emplace_back(sizes.arena_bytes, guarded);
      scratch_.emplace_back(sizes.scratch_bytes, guarded);
    }
  }

  // One pass over `n` images. Whole images go to threads; what is left of n / threads is split by rows of each layer.
  void run(const std::uint8_t *images, std::size_t n, std::size_t image_bytes, const std::vector<Output> &outputs) {
    const std::lock_guard<std::mutex> alone(mutex_); /* one arena a thread: calls take turns */
    const std::size_t threads = static_cast<std::size_t>(pool_.threads()), whole = n / threads * threads;
    const std::size_t n_ops = bsk_engine_ops(engine_);
    std::atomic<std::size_t> next{0};
    const std::function<void(int)> job = [&](int thread) {
      const std::size_t t = static_cast<std::size_t>(thread);
      /* Whoever is free takes the next image: a thread that shares its processor must not hold up the others. */
      for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < whole;) {
        for (std::size_t op = 0; op < n_ops; ++op) bsk_engine_run_op(engine_, op, images + i * image_bytes, arenas_[t].data(), scratch_[t].data(), 0, 1);
        take(outputs, i, arenas_[t]);
      }
      if (whole < n) pool_.barrier(); /* thread 0's arena is free from here */
      for (std::size_t i = whole; i < n; ++i) {
        for (std::size_t op = 0; op < n_ops; ++op) {
          bsk_engine_run_op(engine_, op, images + i * image_bytes, arenas_[0].data(), scratch_[t].data(), thread, pool_.threads());
          pool_.barrier();
        }
        if (t == 0) take(outputs, i, arenas_[0]);
        if (i + 1 < n) pool_.barrier(); /* the result is read before the next image overwrites it */
      }
    };
    pool_.run(job);
  }

  // Held by whoever runs single operations: they use the arena of thread 0, as `run` does.
  std::unique_lock<std::mutex> alone() { return std::unique_lock<std::mutex>(mutex_); }

  void run_op(std::size_t op, const std::uint8_t *image, int part, int parts) {
    bsk_engine_run_op(engine_, op, image, arenas_[0].data(), scratch_[0].data(), part, parts);
  }

  const bsk_engine *engine() const { return engine_; }
  Block &arena() { return arenas_[0]; }
  int threads() const { return pool_.threads(); }
  std::size_t engine_bytes() const { return blocks_[0].size(); }
  std::size_t scratch_bytes() const { return scratch_[0].size(); }

 private:
  static void take(const std::vector<Output> &outputs, std::size_t image, const Block &arena) {
    for (const Output &o : outputs) std::memcpy(o.to + image * o.floats, arena.data() + o.offset, o.floats * sizeof(float));
  }
  static void check(bsk_status status) {
    if (status != BSK_OK) throw std::invalid_argument(bsk_last_error());
  }

  std::mutex mutex_;
  Pool pool_;
  std::vector<Block> blocks_, arenas_, scratch_;
  bsk_engine *engine_ = nullptr;
};

}  // namespace bitskip
