// What at::parallel_for needs of OpenMP's runtime, by threads that ThreadSanitizer knows.
//
// libgomp synchronises by futexes that ThreadSanitizer cannot see: it would report every array that one
// thread writes before a parallel region and another one reads in it. Inside a library built with this file,
// `#pragma omp parallel` starts threads and joins them; both are seen, nothing has to be suppressed, and an
// access that only the region's own code could have ordered is reported. Hidden symbols, so that no other
// library gets them.
#include <thread>
#include <vector>

namespace {

thread_local int thread_num = 0;
thread_local int num_threads = 1;

}  // namespace

extern "C" {

int omp_get_max_threads();  // libgomp's: what torch.set_num_threads or OMP_NUM_THREADS say

__attribute__((visibility("hidden"))) int omp_get_thread_num() { return thread_num; }
__attribute__((visibility("hidden"))) int omp_get_num_threads() { return num_threads; }

__attribute__((visibility("hidden"))) void GOMP_parallel(void (*body)(void*), void* data, unsigned wanted,
                                                         unsigned) {
  const int count = wanted > 0 ? static_cast<int>(wanted) : omp_get_max_threads();
  const auto run = [&](int number) {
    thread_num = number;
    num_threads = count;
    body(data);
    thread_num = 0;
    num_threads = 1;
  };
  std::vector<std::thread> others;
  for (int number = 1; number < count; ++number) others.emplace_back(run, number);
  run(0);
  for (auto& other : others) other.join();
}

}  // extern "C"
