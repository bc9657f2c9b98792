// An engine with its memory and threads: allocated once, then one call an inference.
#pragma once

#include <algorithm>
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
  Session(const std::vector<bsk_op> &ops, std::size_t arena_bytes, bsk_isa isa, int threads, bool guarded) : guarded_(guarded), pool_(threads) {
    check(bsk_engine_bytes(ops.data(), ops.size(), arena_bytes, isa, &sizes_));
    blocks_.emplace_back(sizes_.engine_bytes, guarded);
    check(bsk_engine_init(ops.data(), ops.size(), arena_bytes, isa, blocks_[0].data(), sizes_.engine_bytes, &engine_));
    for (int i = 0; i < threads; ++i) {
      arenas_.emplace_back(sizes_.arena_bytes, guarded);
      scratch_.emplace_back(sizes_.scratch_bytes, guarded);
    }
  }

  // One pass over `n` images. Whole images go to threads, several side by side where that gains; what is left of n / threads
  // is split by rows of each layer.
  void run(const std::uint8_t *images, std::size_t n, std::size_t image_bytes, const std::vector<Output> &outputs) {
    const std::lock_guard<std::mutex> alone(mutex_); /* one arena a thread: calls take turns */
    const std::size_t threads = static_cast<std::size_t>(pool_.threads()), whole = n / threads * threads;
    const std::size_t most = whole > threads && room_for_batches() ? sizes_.batch : 1;
    /* Even shares, as many for each thread. */
    const std::size_t rounds = (whole / threads + most - 1) / most, shares = std::max<std::size_t>(rounds * threads, 1), share = (whole + shares - 1) / shares;
    const std::size_t n_ops = bsk_engine_ops(engine_);
    std::atomic<std::size_t> next{0};
    const std::function<void(int)> job = [&](int thread) {
      const std::size_t t = static_cast<std::size_t>(thread);
      /* Whoever is free takes the next images: a thread that shares its processor must not hold up the others. */
      for (std::size_t i; (i = next.fetch_add(share, std::memory_order_relaxed)) < whole;) {
        const std::size_t count = std::min(share, whole - i);
        if (share > 1) {
          const bsk_batch batch = side_by_side(t, images + i * image_bytes, image_bytes, count);
          bsk_engine_run_batch(engine_, &batch);
          for (std::size_t k = 0; k < count; ++k) take(outputs, i + k, static_cast<char *>(batch.arenas) + k * batch.arena_step);
        } else {
          bsk_engine_run(engine_, images + i * image_bytes, arenas_[t].data(), scratch_[t].data());
          take(outputs, i, arenas_[t].data());
        }
      }
      if (whole < n) pool_.barrier(); /* thread 0's arena is free from here */
      for (std::size_t i = whole; i < n; ++i) {
        for (std::size_t op = 0; op < n_ops; ++op) {
          bsk_engine_run_op(engine_, op, images + i * image_bytes, arenas_[0].data(), scratch_[t].data(), thread, pool_.threads());
          pool_.barrier();
        }
        if (t == 0) take(outputs, i, arenas_[0].data());
        if (i + 1 < n) pool_.barrier(); /* the result is read before the next image overwrites it */
      }
    };
    pool_.run(job);
  }

  // Operation `op` on `n` images side by side, at most `batch()`, in the memory of the first thread; false without room for it.
  bool run_op_on(std::size_t op, const std::uint8_t *images, std::size_t image_bytes, std::size_t n) {
    if (!room_for_batches()) return false;
    const bsk_batch batch = side_by_side(0, images, image_bytes, n);
    bsk_engine_run_batch_op(engine_, op, &batch);
    return true;
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
  std::size_t batch() const { return sizes_.batch; }
  // What a thread takes besides, from its first call with several images on.
  std::size_t batch_bytes() const { return sizes_.batch > 1 ? sizes_.batch * arena_step() + sizes_.batch_scratch_bytes : 0; }

 private:
  static void take(const std::vector<Output> &outputs, std::size_t image, const char *arena) {
    for (const Output &o : outputs) std::memcpy(o.to + image * o.floats, arena + o.offset, o.floats * sizeof(float));
  }

  std::size_t arena_step() const { return (sizes_.arena_bytes + 63) / 64 * 64; }

  // Memory for several images side by side, from the first call that has them on; without room they go one by one.
  bool room_for_batches() {
    if (sizes_.batch == 1 || no_room_) return false;
    if (!batches_.empty()) return true;
    try {
      for (int i = 0; i < pool_.threads(); ++i) {
        batches_.emplace_back(sizes_.batch * arena_step(), guarded_);
        batch_scratch_.emplace_back(sizes_.batch_scratch_bytes, guarded_);
      }
    } catch (const std::bad_alloc &) {
      batches_.clear();
      batch_scratch_.clear();
      no_room_ = true;
    }
    return !no_room_;
  }

  bsk_batch side_by_side(std::size_t thread, const std::uint8_t *images, std::size_t image_bytes, std::size_t count) {
    const Block &arenas = batches_[thread];
    /* The last image's arena ends where the block does. */
    char *first = arenas.data() + arenas.size() - count * arena_step();
    return {images, image_bytes, first, arena_step(), batch_scratch_[thread].data(), count};
  }

  static void check(bsk_status status) {
    if (status != BSK_OK) throw std::invalid_argument(bsk_last_error());
  }

  const bool guarded_;
  bool no_room_ = false;
  bsk_sizes sizes_{};
  std::mutex mutex_;
  Pool pool_;
  std::vector<Block> blocks_, arenas_, scratch_, batches_, batch_scratch_;
  bsk_engine *engine_ = nullptr;
};

}  // namespace bitskip
