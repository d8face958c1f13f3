// The kernels of cpu_kernels.h, written once with GCC vector extensions and compiled per instruction set by
// cpu_baseline.cpp, cpu_avx2.cpp and cpu_avx512.cpp, which define UQFORCE_VECTOR_BYTES and UQFORCE_KERNELS
// (names of the tables). Everything here has internal linkage. One edge per lane.
#include "edge_embedding/body.h"
#include "edge_embedding/cpu_kernels.h"

namespace uqforce::embedding {
namespace {

template <typename T>
struct Simd {
  typedef T vector __attribute__((vector_size(UQFORCE_VECTOR_BYTES)));
  static constexpr int lanes = UQFORCE_VECTOR_BYTES / sizeof(T);
};
template <typename T>
using Vector = typename Simd<T>::vector;

// `columns` numbers of up to `lanes` edges; those beyond the last edge are zero.
template <typename T, int columns>
inline void gather(const T* rows, int64_t edges, Vector<T>* values) {
  for (int k = 0; k < columns; ++k) values[k] = Vector<T>{};
  if (rows == nullptr) return;
  for (int64_t e = 0; e < edges; ++e)
    for (int k = 0; k < columns; ++k) values[k][e] = rows[e * columns + k];
}
template <typename T, int columns>
inline void scatter(const Vector<T>* values, int64_t edges, T* rows) {
  if (rows == nullptr) return;
  for (int64_t e = 0; e < edges; ++e)
    for (int k = 0; k < columns; ++k) rows[e * columns + k] = values[k][e];
}
template <typename T>
inline Three<Vector<T>> gather_three(const T* rows, int64_t edges) {
  Vector<T> v[3];
  gather<T, 3>(rows, edges, v);
  return {v[0], v[1], v[2]};
}
template <typename T>
inline void scatter_three(const Three<Vector<T>>& a, int64_t edges, T* rows) {
  const Vector<T> v[3] = {a.x, a.y, a.z};
  scatter<T, 3>(v, edges, rows);
}

template <typename T>
inline Frame<Vector<T>> frame(const Edges<T>& a, int64_t first, int64_t edges) {
  const Three<Vector<T>> v = gather_three(a.vec + 3 * first, edges);
  const Vector<T> square = dot(v, v);
  Vector<T> length, cutoff;
  for (int k = 0; k < Simd<T>::lanes; ++k) length[k] = __builtin_sqrt(square[k]);
  if (a.one_cutoff) {
    cutoff = Vector<T>{} + a.inverse_cutoff[0];
  } else {
    gather<T, 1>(a.inverse_cutoff + first, edges, &cutoff);
  }
  return frame_of(v, length, cutoff);
}

template <typename T>
inline const T* row(const T* rows, int64_t offset) {
  return rows == nullptr ? nullptr : rows + offset;
}
template <typename T>
inline T* row(T* rows, int64_t offset) {
  return rows == nullptr ? nullptr : rows + offset;
}

// Calls use(first edge, number of edges) for every vector of edges.
template <typename T, typename Use>
inline void for_vectors(const Edges<T>& a, Use use) {
  constexpr int64_t lanes = Simd<T>::lanes;
  for (int64_t first = 0; first < a.edges; first += lanes)
    use(first, a.edges - first < lanes ? a.edges - first : lanes);
}

template <typename T, int L>
void forward(const Edges<T>& a) {
  constexpr int size = (L + 1) * (L + 1);
  for_vectors(a, [&](int64_t first, int64_t edges) {
    const auto f = frame(a, first, edges);
    const Vector<T> x = f.length * f.cutoff;
    scatter<T, size>(harmonics<T, L>(f.n).value, edges, a.sh + first * size);
    scatter<T, 1>(&x, edges, a.length + first);
  });
}

template <typename T, int L>
void backward(const Edges<T>& a) {
  constexpr int size = (L + 1) * (L + 1);
  for_vectors(a, [&](int64_t first, int64_t edges) {
    const auto f = frame(a, first, edges);
    Harmonics<T, Vector<T>, L> g;
    Vector<T> gx;
    gather<T, size>(row(a.grad_sh, first * size), edges, g.value);
    gather<T, 1>(row(a.grad_length, first), edges, &gx);
    scatter_three(gradient(f, g, gx), edges, a.dvec + 3 * first);
  });
}

template <typename T, int L>
void double_backward(const Edges<T>& a) {
  constexpr int size = (L + 1) * (L + 1);
  for_vectors(a, [&](int64_t first, int64_t edges) {
    const auto f = frame(a, first, edges);
    const SecondOrder<T, Vector<T>, L> second(f, gather_three(a.ddvec + 3 * first, edges));
    scatter<T, size>(second.dgy.value, edges, row(a.sh, first * size));
    scatter<T, 1>(&second.dgx, edges, row(a.length, first));
    if (a.dvec == nullptr) return;
    Harmonics<T, Vector<T>, L> gy;
    Vector<T> gx;
    gather<T, size>(row(a.grad_sh, first * size), edges, gy.value);
    gather<T, 1>(row(a.grad_length, first), edges, &gx);
    scatter_three(second.dv(f, gy, gx), edges, a.dvec + 3 * first);
  });
}

template <typename T>
constexpr Kernels<T> table = {
    {forward<T, 0>, forward<T, 1>, forward<T, 2>, forward<T, 3>, forward<T, 4>},
    {backward<T, 0>, backward<T, 1>, backward<T, 2>, backward<T, 3>, backward<T, 4>},
    {double_backward<T, 0>, double_backward<T, 1>, double_backward<T, 2>, double_backward<T, 3>,
     double_backward<T, 4>}};

}  // namespace

extern const Kernels<float> UQFORCE_KERNELS(f32) = table<float>;
extern const Kernels<double> UQFORCE_KERNELS(f64) = table<double>;

}  // namespace uqforce::embedding
