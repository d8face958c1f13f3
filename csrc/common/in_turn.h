// Tasks that threads share, with an end that happens in the order of the tasks.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace uqforce {

// Results that several tasks add to are added to in the order of the tasks, whatever thread does them: each
// thread takes the next task, does worker.work(task), and then worker.finish(task, part) for part = 0, ...,
// parts - 1, each after the same part of the task before. Parts touch different results, so that several
// tasks can finish at once, one behind the other. make_worker() is called once per thread; neither work nor
// finish may throw, as others wait for them.
template <class MakeWorker>
void in_turn(int64_t tasks, int64_t parts, const MakeWorker& make_worker) {
  struct alignas(64) Turn {
    std::atomic<int64_t> task{0};

    void wait_for(int64_t mine) const {
      constexpr int kYields = 1000;  // then sleep
      int yields = 0;
      for (int64_t now; (now = task.load(std::memory_order_acquire)) != mine;) {
        if (++yields < kYields) {
          std::this_thread::yield();
        } else {
          task.wait(now, std::memory_order_acquire);
        }
      }
    }
    void pass() {
      task.fetch_add(1, std::memory_order_release);
      task.notify_all();
    }
  };
  std::vector<Turn> turns(parts);
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), tasks);
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    auto worker = make_worker();
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      worker.work(task);
      for (int64_t part = 0; part < parts; ++part) {
        turns[part].wait_for(task);
        worker.finish(task, part);
        turns[part].pass();
      }
    }
  });
}

}  // namespace uqforce
