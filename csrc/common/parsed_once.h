// The integers that describe an op's layout, parsed and checked in the first call that has them.
#pragma once

#include <c10/util/ArrayRef.h>

#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace uqforce {

// parse(flat), remembered for the process, one memory per Spec. A spec has thousands of columns and weights
// to check, too many for every call of a small system; a list that is refused is parsed again.
template <typename Spec>
const Spec& parsed_once(at::IntArrayRef flat, Spec (*parse)(at::IntArrayRef)) {
  static std::mutex mutex;
  static std::map<std::vector<int64_t>, std::unique_ptr<const Spec>> known;
  std::lock_guard<std::mutex> lock(mutex);
  auto& spec = known[flat.vec()];
  if (!spec) spec = std::make_unique<const Spec>(parse(flat));
  return *spec;
}

}  // namespace uqforce
