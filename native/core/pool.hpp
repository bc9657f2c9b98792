// Persistent threads: one wake-up an inference, spinning barriers between layers.
//
// A layer of these networks takes microseconds, less than a wake-up, so threads that take part in an inference never
// sleep inside it. Between inferences they spin for a moment (a stream of images keeps them hot) and then block.
// A fork takes no threads along: in the child a pool can only be destroyed, and what its threads waited on is left be.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace bitskip {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    try {
      sleepers_->workers.reserve(static_cast<std::size_t>(threads));
      for (int i = 1; i < threads; ++i) sleepers_->workers.emplace_back([this, i] { work(i); });
    } catch (...) { /* the system has no thread left; those that run wait on members that would go away */
      stop();
      throw;
    }
  }

  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  ~Pool() { stop(); }

  int threads() const { return threads_; }

  // Call job(i) for i in 0..threads-1, job(0) on the calling thread, and return when all have returned.
  void run(const std::function<void(int)> &job) {
    if (threads_ == 1) {
      job(0);
      return;
    }
    job_ = &job;
    pending_.store(threads_ - 1, std::memory_order_relaxed);
    announce();
    job(0);
    wait([this] { return pending_.load(std::memory_order_acquire) == 0; });
  }

  // All threads of a job meet here; what each wrote before is seen by all after.
  void barrier() {
    if (threads_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
    } else {
      wait([this, phase] { return phase_.load(std::memory_order_acquire) != phase; });
    }
  }

 private:
  // What cannot be destroyed while a thread waits, so never in a forked child, whose copy has waiters and no threads.
  struct Sleepers {
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable wake;
  };

  static long process() {
#if defined(__unix__) || defined(__APPLE__)
    return static_cast<long>(getpid());
#else
    return 0;
#endif
  }

  void stop() {
    if (process() != owner_) return;
    stop_ = true;
    announce();
    for (auto &worker : sleepers_->workers) worker.join();
    delete sleepers_;
    sleepers_ = nullptr;
  }

  // Spin; where more threads than processors run, give way after a while.
  template <class Ready>
  static void wait(Ready ready) {
    for (int i = 0; !ready(); ++i) {
      if (i < 400) {
        relax();
      } else {
        std::this_thread::yield();
      }
    }
  }

  void announce() {
    {
      std::lock_guard<std::mutex> lock(sleepers_->mutex);
      generation_.fetch_add(1, std::memory_order_release);
    }
    sleepers_->wake.notify_all();
  }

  void work(int index) {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < 2000 && generation_.load(std::memory_order_acquire) == seen; ++i) relax();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(sleepers_->mutex);
        sleepers_->wake.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      (*job_)(index);
      pending_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  const int threads_;
  const long owner_ = process();
  Sleepers *sleepers_ = new Sleepers;
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> stop_{false};
  const std::function<void(int)> *job_ = nullptr;
  std::atomic<int> pending_{0};
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> phase_{0};
};

}  // namespace bitskip
