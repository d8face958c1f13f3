// The ops of force_variance on the CPU: arguments made contiguous, results allocated, passes over the edges
// run.
#include <torch/library.h>

#include "common/pool.h"
#include "force_variance/cpu_pass.h"
#include "force_variance/op.h"

namespace uqforce::force_variance {
namespace {

template <typename T>
Rows<T> rows(const Tensor& tensor) {
  return {tensor.const_data_ptr<T>()};
}

struct Contiguous {
  Tensor edge_index, edge_vec, grad_energy, grad_sigma, batch;
  Graph graph;
  int64_t structures;

  explicit Contiguous(UQFORCE_INPUTS)
      : edge_index(edge_index.contiguous()),
        edge_vec(edge_vec.contiguous()),
        grad_energy(grad_energy.contiguous()),
        grad_sigma(grad_sigma.contiguous()),
        batch(batch.contiguous()),
        graph(this->edge_index.const_data_ptr<int64_t>(),
              this->edge_index.const_data_ptr<int64_t>() + edge_index.size(1), batch.size(0),
              edge_index.size(1), local && grad_sigma.size(0) > 0),
        structures(num_structures.expect_int()) {
    const int64_t* structure = this->batch.const_data_ptr<int64_t>();
    for (const auto i : c10::irange(graph.atoms)) {
      TORCH_CHECK_VALUE(structure[i] >= 0 && structure[i] < structures, "batch holds structure ",
                        structure[i], " at atom ", i, ", but num_structures is ", structures);
    }
  }

  template <typename S>
  Pass<S> pass(typename Types<S>::View r, typename Types<S>::View g, typename Types<S>::View s, bool local,
               int64_t ddof, int64_t members) const {
    using T = typename Types<S>::Plain;
    return {r,
            g,
            s,
            batch.const_data_ptr<int64_t>(),
            grad_energy.size(0),
            members,
            grad_sigma.size(0),
            structures,
            local,
            T(ddof),
            graph};
  }

  template <typename T>
  Pass<T> pass(bool local, int64_t ddof, int64_t members) const {
    return pass<T>(rows<T>(edge_vec), rows<T>(grad_energy), rows<T>(grad_sigma), local, ddof, members);
  }
};

Results empty_results(const Contiguous& in, bool local) {
  const Tensor& like = in.grad_energy;
  const int64_t atoms = in.graph.atoms, structures = in.structures;
  return {like.new_empty({atoms, 3}),
          like.new_empty({atoms, 6}),
          like.new_empty({atoms, 6}),
          like.new_empty({structures, 3, 3}),
          like.new_empty({structures, 3, 3}),
          like.new_empty({like.size(0), atoms, 3}),
          like.new_empty({like.size(0), structures, 3, 3}),
          like.new_empty({in.grad_sigma.size(0), local ? atoms : structures, 3, 3})};
}

Gradients empty_gradients(const Contiguous& in) {
  const auto like = [](const Tensor& t) { return empty_from_pool(t.sizes(), t.options()); };
  return {like(in.edge_vec), like(in.grad_energy), like(in.grad_sigma)};
}

template <typename T>
ResultPointers<T> pointers(const Results& r) {
  return std::apply([](auto&... t) { return ResultPointers<T>{t.template mutable_data_ptr<T>()...}; }, r);
}

template <typename T>
GradientPointers<T> pointers(const Gradients& r) {
  return std::apply([](auto&... t) { return GradientPointers<T>{t.template mutable_data_ptr<T>()...}; }, r);
}

using Cotangents = std::array<Tensor, std::tuple_size_v<Results>>;

template <typename... Tensors>
Cotangents contiguous(const Tensors&... tensors) {
  return {tensors.contiguous()...};
}

template <typename T>
CotangentPointers<T> pointers(const Cotangents& c) {
  return std::apply([](auto&... t) { return CotangentPointers<T>{t.template const_data_ptr<T>()...}; }, c);
}

// Calls use(T{}) with T of `tensor`.
template <typename Use>
void with_type(const Tensor& tensor, Use use) {
  tensor.scalar_type() == at::kFloat ? use(float{}) : use(double{});
}

Results forward_cpu(UQFORCE_INPUTS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  const Contiguous in(UQFORCE_INPUT_NAMES);
  Results results = empty_results(in, local);
  with_type(grad_energy,
            [&]<typename T>(T) { in.pass<T>(local, ddof, members).forward(pointers<T>(results)); });
  return results;
}

Gradients backward_cpu(UQFORCE_INPUTS, UQFORCE_COTANGENTS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  check_cotangents(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES);
  const Contiguous in(UQFORCE_INPUT_NAMES);
  const auto c = contiguous(UQFORCE_COTANGENT_NAMES);
  Gradients gradients = empty_gradients(in);
  with_type(grad_energy, [&]<typename T>(T) {
    in.pass<T>(local, ddof, members).backward(pointers<T>(c), pointers<T>(gradients));
  });
  return gradients;
}

Directional double_backward_cpu(UQFORCE_INPUTS, UQFORCE_COTANGENTS, UQFORCE_DIRECTIONS) {
  check_inputs(UQFORCE_INPUT_NAMES);
  check_cotangents(UQFORCE_INPUT_NAMES, UQFORCE_COTANGENT_NAMES);
  check_directions(UQFORCE_INPUT_NAMES, UQFORCE_DIRECTION_NAMES);
  const Contiguous in(UQFORCE_INPUT_NAMES);
  const auto c = contiguous(UQFORCE_COTANGENT_NAMES);
  const Tensor u[] = {u_edge_vec.contiguous(), u_grad_energy.contiguous(), u_grad_sigma.contiguous()};
  Results results = empty_results(in, local);
  Gradients gradients = empty_gradients(in);
  with_type(grad_energy, [&]<typename T>(T) {
    const auto pass =
        in.pass<Dual<T>>({rows<T>(in.edge_vec), rows<T>(u[0])}, {rows<T>(in.grad_energy), rows<T>(u[1])},
                         {rows<T>(in.grad_sigma), rows<T>(u[2])}, local, ddof, members);
    pass.forward(pointers<T>(results));
    pass.backward(pointers<T>(c), pointers<T>(gradients));
  });
  return std::tuple_cat(results, gradients);
}

}  // namespace

TORCH_LIBRARY_IMPL(uqforce, CPU, m) {
  m.impl("force_variance.members", forward_cpu);
  m.impl("force_variance_backward", backward_cpu);
  m.impl("force_variance_double_backward", double_backward_cpu);
}

}  // namespace uqforce::force_variance
