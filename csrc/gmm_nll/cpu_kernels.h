// What the instruction-set specific files offer. Plain structs and function pointers only: those files may
// not contain inline functions of the standard library, whose code could leak into processors that lack the
// set.
#pragma once

#include <cstdint>

namespace uqforce::gmm_nll {

// M components in D dimensions; `constants` [M] holds log w + log det P - D/2 log 2 pi.
template <typename T>
struct Mixture {
  int64_t dim;
  int64_t components;
  const T* means;
  const T* cholesky;
  const T* constants;
};

// Of each atom of a block: exp(log(w_m N(x | mu_m, Sigma_m)) - max) [M], its maximum `max` (of the
// logarithms) and sum, and the component of the maximum.
template <typename T>
struct Terms {
  T* terms;
  T* max;
  T* sum;
  T* dominant;
};

// Kernels on a block of `vectors * lanes` atoms, one atom per SIMD lane: arrays [rows, vectors * lanes].
// `vectors` is 1, 2 or `max_vectors`. What happens to an atom depends neither on its lane nor on the block.
template <typename T>
struct Kernels {
  int64_t lanes;
  int64_t max_vectors;

  // Fills the terms of features x [D]; those whose logarithm lies `drop` below the largest are 0.
  void (*mixture)(const Mixture<T>&, const T* x, T drop, int64_t vectors, const Terms<T>&);

  // bounds [M]: what log(w_m N(x | mu_m, Sigma_m)) cannot exceed, by the first `rows` of D parts of its
  // square; best: the component of the highest one.
  void (*bounds)(const Mixture<T>&, int64_t rows, const T* x, int64_t vectors, T* bounds, T* best);

  // The same terms, bit for bit. Components whose bound lies `drop` below the logarithm of the component
  // `best` are not computed. scratch: one bool per component. Returns the work, in quarters of a component's.
  int64_t (*pruned)(const Mixture<T>&, const T* x, const T* bounds, const T* best, T drop, int64_t vectors,
                    bool* scratch, const Terms<T>&);

  // In place: terms -> shares of the likelihood (responsibilities), 0 where below `negligible`.
  void (*shares)(const Mixture<T>&, T negligible, int64_t vectors, const Terms<T>&);

  // grad [D] += sum_m r_m A_m (x - mu_m) over the components with active[m]. scratch: [D].
  void (*gradient)(const Mixture<T>&, const T* x, const T* responsibility, const bool* active,
                   int64_t vectors, T* scratch, T* grad);

  // grad as above and product [D] += sum_m r_m (A_m u - v_m (v_m . u)), v_m = A_m (x - mu_m). scratch: [2D].
  void (*hessian)(const Mixture<T>&, const T* x, const T* u, const T* responsibility, const bool* active,
                  int64_t vectors, T* scratch, T* grad, T* product);
};

extern const Kernels<float> kernels_baseline_f32, kernels_avx2_f32, kernels_avx512_f32;
extern const Kernels<double> kernels_baseline_f64, kernels_avx2_f64, kernels_avx512_f64;

}  // namespace uqforce::gmm_nll
