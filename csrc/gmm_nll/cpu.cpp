// CPU driver of the mixture's negative log-likelihood, its gradient and Hessian-vector product.
//
// Atoms stand in SIMD lanes. Of a chunk of atoms, a sixteenth of the work bounds the likelihood of every
// component from above; atoms are sorted by the component of the highest bound, so that a block of lanes
// shares its few components that can matter, and only these are computed, and only those responsible for an
// atom, usually one or two, take part in its derivatives. What is left out is below `kNegligible` of the
// likelihood. An atom's result does not depend on the others, so it does not depend on the number of threads
// either.
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/irange.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "common/isa.h"
#include "common/pool.h"
#include "gmm_nll/cpu_kernels.h"
#include "gmm_nll/op.h"

namespace uqforce::gmm_nll {
namespace {

using at::Tensor;

constexpr int64_t kChunk = 2048;
constexpr int64_t kSortedVectors = 1;  // small blocks of sorted atoms: fewer components active in each
constexpr int64_t kDenseChunks = 15;
constexpr int64_t kBoundedDim = 32;  // fewer features: all components are computed
constexpr double kLogTwoPi = 1.8378770664093454836;

// Components with a smaller share of the likelihood are left out of derivatives: far below rounding.
template <typename T>
constexpr T kNegligible = std::is_same_v<T, float> ? T(1e-14) : T(1e-28);
template <typename T>
constexpr T kDrop = std::is_same_v<T, float> ? T(32.2361913) : T(64.4723826);  // -log(kNegligible)

template <typename T>
const Kernels<T>& kernels() {
  return UQFORCE_ACTIVE_OF(T, gmm_nll::kernels);
}

template <typename T>
struct Problem {
  Mixture<T> mixture;
  int64_t atoms;
  const T* features;
  const T* vector = nullptr;  // for the Hessian product
  T* nll = nullptr;
  T* grad = nullptr;
  T* product = nullptr;
};

// The first `used` of the rows [count, D] at `index` -> columns [used, width], the last atom repeated.
template <typename T>
void load_columns(const T* rows, const int64_t* index, int64_t count, int64_t D, int64_t used, int64_t width,
                  T* columns) {
  for (const auto lane : c10::irange(width)) {
    const T* row = rows + index[std::min(lane, count - 1)] * D;
    for (const auto i : c10::irange(used)) columns[i * width + lane] = row[i];
  }
}

template <typename T>
class Worker {
 public:
  Worker(const Problem<T>& problem, int64_t chunk)
      : p_(problem),
        k_(kernels<T>()),
        block_(k_.lanes * k_.max_vectors),
        padded_(chunk + block_),
        x_(take(p_.mixture.dim * block_)),
        u_(take(p_.mixture.dim * block_)),
        scratch_(take(2 * p_.mixture.dim * block_)),
        grad_(take(p_.mixture.dim * block_)),
        product_(take(p_.mixture.dim * block_)),
        responsibility_(take(p_.mixture.components * block_)),
        terms_(take(p_.mixture.components * padded_)),
        bounds_(bounded() ? take(p_.mixture.components * padded_) : nullptr),
        candidate_(bounded() ? take(padded_) : nullptr),
        best_(take(block_)),
        max_(take(padded_)),
        sum_(take(padded_)),
        dominant_(take(padded_)),
        shares_(padded_),
        order_(padded_),
        active_(new bool[p_.mixture.components]) {}

  void operator()(int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    std::iota(order_.begin(), order_.begin() + count, begin);
    // Where bounds do not spare half of the work, the next chunks do without them.
    const bool pruned = bounded() && chunk_++ >= dense_until_;
    if (pruned) bound(begin, count);
    int64_t work = 0, half = 0;
    for_blocks(count, pruned ? kSortedVectors : k_.max_vectors,
               [&](int64_t first, int64_t size, int64_t vectors) {
                 work += likelihood(pruned, begin, first, size, vectors);
                 half += 2 * p_.mixture.components;
               });
    if (work > half) dense_until_ = chunk_ + kDenseChunks;
    if (p_.nll) {
      for (const auto n : c10::irange(count)) p_.nll[order_[n]] = -(max_[n] + std::log(sum_[n]));
    }
    if (!derivatives()) return;
    if (!pruned) sort_by(dominant_, begin, count);
    for_blocks(count, kSortedVectors, [&](int64_t first, int64_t size, int64_t vectors) {
      derivatives(begin, first, size, vectors);
    });
  }

 private:
  T* take(int64_t size) { return arena_.take<T>(size).data(); }

  template <typename Use>
  void for_blocks(int64_t count, int64_t max_vectors, Use use) const {
    for (int64_t first = 0; first < count;) {
      const int64_t left = (count - first + k_.lanes - 1) / k_.lanes;
      const int64_t vectors = left >= max_vectors ? max_vectors : std::min<int64_t>(left, 2);
      const int64_t size = std::min(count - first, vectors * k_.lanes);
      use(first, size, vectors);
      first += size;
    }
  }

  // Bounds of the chunk's likelihoods; sorts its atoms by the component of the highest.
  void bound(int64_t begin, int64_t count) {
    const auto& mix = p_.mixture;
    const int64_t leading = mix.dim / 8;
    for_blocks(count, k_.max_vectors, [&](int64_t first, int64_t size, int64_t vectors) {
      const int64_t width = vectors * k_.lanes;
      T* bounds = bounds_ + first * mix.components;
      load_columns(p_.features, order_.data() + first, size, mix.dim, leading, width, x_);
      k_.bounds(mix, leading, x_, vectors, bounds, candidate_ + first);
      point_to(bounds, begin, first, size, width);
    });
    sort_by(candidate_, begin, count);
  }

  // The work, in quarters of a component's for a block; 0 where all are computed.
  int64_t likelihood(bool pruned, int64_t begin, int64_t first, int64_t size, int64_t vectors) {
    const auto& mix = p_.mixture;
    const int64_t width = vectors * k_.lanes;
    const int64_t* atoms = order_.data() + first;
    const Terms<T> terms{terms_ + first * mix.components, max_ + first, sum_ + first, dominant_ + first};
    load_columns(p_.features, atoms, size, mix.dim, mix.dim, width, x_);
    int64_t work = 0;
    if (pruned) {
      gather(begin, atoms, size, width);
      for (const auto lane : c10::irange(width)) {
        best_[lane] = candidate_[atoms[std::min(lane, size - 1)] - begin];
      }
      work = k_.pruned(mix, x_, responsibility_, best_, kDrop<T>, vectors, active_.get(), terms);
    } else {
      k_.mixture(mix, x_, kDrop<T>, vectors, terms);
    }
    if (derivatives()) {
      k_.shares(mix, kNegligible<T>, vectors, terms);
      point_to(terms.terms, begin, first, size, width);
    }
    return work;
  }

  void point_to(const T* columns, int64_t begin, int64_t first, int64_t size, int64_t width) {
    for (const auto lane : c10::irange(size)) shares_[order_[first + lane] - begin] = {columns + lane, width};
  }

  // responsibility_ [M, width]: the columns that shares_ points to.
  void gather(int64_t begin, const int64_t* atoms, int64_t size, int64_t width) {
    for (const auto lane : c10::irange(width)) {
      const auto [share, stride] = shares_[atoms[std::min(lane, size - 1)] - begin];
      for (const auto m : c10::irange(p_.mixture.components))
        responsibility_[m * width + lane] = share[m * stride];
    }
  }

  bool bounded() const { return p_.mixture.dim >= kBoundedDim && p_.mixture.components > 1; }

  bool derivatives() const { return p_.grad || p_.product; }

  // Counting sort of the chunk's atoms (order_) by a component of each; stable.
  void sort_by(const T* component, int64_t begin, int64_t count) {
    std::vector<int64_t> start(p_.mixture.components + 1);
    for (const auto n : c10::irange(count)) ++start[int64_t(component[n]) + 1];
    std::partial_sum(start.begin(), start.end(), start.begin());
    for (const auto n : c10::irange(count)) order_[start[int64_t(component[n])]++] = begin + n;
  }

  void derivatives(int64_t begin, int64_t first, int64_t size, int64_t vectors) {
    const auto& mix = p_.mixture;
    const int64_t width = vectors * k_.lanes;
    const int64_t* atoms = order_.data() + first;
    gather(begin, atoms, size, width);
    for (const auto m : c10::irange(mix.components)) {
      const T* r = responsibility_ + m * width;
      active_[m] = std::any_of(r, r + width, [](T share) { return share != T(0); });
    }
    load_columns(p_.features, atoms, size, mix.dim, mix.dim, width, x_);
    std::fill_n(grad_, mix.dim * width, T(0));
    if (!p_.product) {
      k_.gradient(mix, x_, responsibility_, active_.get(), vectors, scratch_, grad_);
      store_rows(grad_, atoms, size, width, p_.grad);
      return;
    }
    load_columns(p_.vector, atoms, size, mix.dim, mix.dim, width, u_);
    std::fill_n(product_, mix.dim * width, T(0));
    k_.hessian(mix, x_, u_, responsibility_, active_.get(), vectors, scratch_, grad_, product_);
    for (const auto lane : c10::irange(size)) {  // + g (g . u)
      T dot = 0;
      for (const auto i : c10::irange(mix.dim)) dot += grad_[i * width + lane] * u_[i * width + lane];
      for (const auto i : c10::irange(mix.dim)) product_[i * width + lane] += dot * grad_[i * width + lane];
    }
    store_rows(product_, atoms, size, width, p_.product);
  }

  void store_rows(const T* columns, const int64_t* index, int64_t count, int64_t width, T* rows) const {
    const int64_t D = p_.mixture.dim;
    for (const auto lane : c10::irange(count)) {
      for (const auto i : c10::irange(D)) rows[index[lane] * D + i] = columns[i * width + lane];
    }
  }

  const Problem<T>& p_;
  const Kernels<T>& k_;
  const int64_t block_, padded_;
  Arena arena_;
  // Columns of one block, and the terms of all atoms of the chunk (see Terms).
  T *x_, *u_, *scratch_, *grad_, *product_, *responsibility_;
  T *terms_, *bounds_, *candidate_, *best_, *max_, *sum_, *dominant_;
  struct Share {  // of one atom: share[m * stride] for component m
    const T* first;
    int64_t stride;
  };
  std::vector<Share> shares_;
  std::vector<int64_t> order_;
  std::unique_ptr<bool[]> active_;
  int64_t chunk_ = 0, dense_until_ = 0;
};

// log w + log det P - D/2 log 2 pi of each component; ValueError for parameters that are no mixture.
template <typename T>
std::vector<T> component_constants(const Mixture<T>& mix, const T* log_weights) {
  std::vector<T> constants(mix.components);
  for (const auto m : c10::irange(mix.components)) {
    const T* cholesky = mix.cholesky + m * mix.dim * mix.dim;
    double log_det = 0;
    for (const auto i : c10::irange(mix.dim)) log_det += std::log(double(cholesky[i * (mix.dim + 1)]));
    TORCH_CHECK_VALUE(std::isfinite(log_det), "precisions_cholesky[", m,
                      "] has a diagonal entry that is not ", "positive and finite");
    // A zero weight (log -inf) is a component that never counts.
    TORCH_CHECK_VALUE(log_weights[m] < std::numeric_limits<T>::infinity(), "log_weights[", m, "] is ",
                      log_weights[m], ": expected the logarithm of a weight");
    constants[m] = T(double(log_weights[m]) + log_det - 0.5 * kLogTwoPi * double(mix.dim));
  }
  return constants;
}

template <typename T>
void check_finite(const T* data, int64_t size, const char* name) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Bits exponent = std::bit_cast<Bits>(std::numeric_limits<T>::infinity()),
                 top = Bits(1) << (8 * sizeof(T) - 1);
  Bits carry = 0;  // into the top bit, where the exponent is all ones
  for (int64_t i = 0; i < size; ++i) carry |= (std::bit_cast<Bits>(data[i]) & exponent) + (top - exponent);
  TORCH_CHECK_VALUE((carry & top) == 0, name, " holds values that are not finite");
}

template <typename T>
void run(const Tensor& features, const Tensor& means, const Tensor& cholesky, const Tensor& log_weights,
         Problem<T> problem) {
  problem.atoms = features.size(0);
  problem.features = features.const_data_ptr<T>();
  problem.mixture = {means.size(1), means.size(0), means.const_data_ptr<T>(), cholesky.const_data_ptr<T>(),
                     nullptr};
  check_finite(problem.mixture.means, means.numel(), "means");
  check_finite(problem.mixture.cholesky, cholesky.numel(), "precisions_cholesky");
  const auto constants = component_constants(problem.mixture, log_weights.const_data_ptr<T>());
  problem.mixture.constants = constants.data();

  const int64_t lanes = kernels<T>().lanes;
  const int64_t per_thread = (problem.atoms + at::get_num_threads() - 1) / at::get_num_threads();
  const int64_t chunk = std::min(kChunk, (per_thread + lanes - 1) / lanes * lanes);
  const int64_t chunks = chunk == 0 ? 0 : (problem.atoms + chunk - 1) / chunk;
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    Worker<T> worker(problem, chunk);
    for (const auto c : c10::irange(begin, end)) worker(c * chunk, std::min(problem.atoms, (c + 1) * chunk));
  });
}

// The results wanted; those that are not are undefined.
struct Results {
  Tensor nll, grad, product;
};

template <typename T>
T* pointer(const Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}

// Fills the results; `vector` belongs to the product.
Results evaluate(const Tensor& features, const Tensor& means, const Tensor& cholesky,
                 const Tensor& log_weights, const Tensor& vector, Results results) {
  const Tensor x = features.contiguous(), mu = means.contiguous(), P = cholesky.contiguous(),
               log_w = log_weights.contiguous(), u = vector.defined() ? vector.contiguous() : vector;
  const auto with_type = [&]<typename T>(T) {
    Problem<T> problem;
    problem.vector = u.defined() ? u.const_data_ptr<T>() : nullptr;
    problem.nll = pointer<T>(results.nll);
    problem.grad = pointer<T>(results.grad);
    problem.product = pointer<T>(results.product);
    run<T>(x, mu, P, log_w, problem);
  };
  features.scalar_type() == at::kFloat ? with_type(float{}) : with_type(double{});
  return results;
}

Tensor per_atom(const Tensor& features) { return features.new_empty({features.size(0)}); }

Tensor per_feature(const Tensor& features) { return at::empty_like(features, at::MemoryFormat::Contiguous); }

Tensor nll_cpu(const Tensor& features, const Tensor& means, const Tensor& cholesky,
               const Tensor& log_weights) {
  check_arguments(features, means, cholesky, log_weights);
  return evaluate(features, means, cholesky, log_weights, {}, {.nll = per_atom(features)}).nll;
}

std::tuple<Tensor, Tensor> grad_cpu(const Tensor& features, const Tensor& means, const Tensor& cholesky,
                                    const Tensor& log_weights) {
  check_arguments(features, means, cholesky, log_weights);
  const auto [nll, grad, product] = evaluate(features, means, cholesky, log_weights, {},
                                             {.nll = per_atom(features), .grad = per_feature(features)});
  return {nll, grad};
}

Tensor hvp_cpu(const Tensor& features, const Tensor& means, const Tensor& cholesky, const Tensor& log_weights,
               const Tensor& vector) {
  check_arguments(features, means, cholesky, log_weights);
  check_vector(vector, features);
  return evaluate(features, means, cholesky, log_weights, vector, {.product = per_feature(features)}).product;
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("gmm_nll", nll_cpu);
  m.impl("gmm_nll_grad", grad_cpu);
  m.impl("gmm_nll_hvp", hvp_cpu);
}

}  // namespace uqforce::gmm_nll
