// libtorch's door: the operators of ops/__init__.py for C++ programs, on the CPU, with their gradients.
//
// A program links or loads this library, and TorchScript files that call the operators run without
// Python. Where the Python package has defined them before, its operators stay.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "shapes.h"
#include "threads.h"

namespace exportable_losses {
namespace {

using at::Tensor;
using Lattice = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t);
using LatticeGrad = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                               std::int64_t, const Tensor&);

using Durations = c10::IntArrayRef;
using ArcsCosts = Tensor(const Tensor&, const Tensor&, const Tensor&, Durations, Durations, bool);
using ArcsCostsGrad = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, Durations, Durations, bool,
                                                 const Tensor&);

template <class Loss>
const char* const operator_name = nullptr;
template <>
const char* const operator_name<CTC> = "exportable_losses::ctc_loss";
template <>
const char* const operator_name<Transducer> = "exportable_losses::transducer_loss";

// As many threads as torch has; one where torch's own are at work already.
Parallel torchs_threads() { return on_threads(at::in_parallel_region() ? 1 : at::get_num_threads()); }

template <class Element>
Array<Element> array(const Tensor& tensor) {
  return {static_cast<const Element*>(tensor.const_data_ptr()), tensor.sizes().vec()};
}

Tensor integers(const Tensor& given, const char* name) {
  TORCH_CHECK_VALUE(at::isIntegralType(given.scalar_type(), false), name, ": got ", given.scalar_type(),
                    ", expected integers");
  return given.to(at::kLong).contiguous();
}

// A row of classes, and a frame of rows, in one piece; items and frames may lie anywhere.
template <class Loss>
Tensor in_rows(const Tensor& scores) {
  const bool rows = scores.dim() == Loss::rank && scores.stride(-1) == 1 &&
                    (Loss::rank == 3 || scores.stride(2) == scores.size(-1));
  return rows ? scores : scores.contiguous();
}

// Costs [B], and with grad_costs the gradient in the shape of the scores and of their type.
template <class Loss, class Score>
std::tuple<Tensor, Tensor> compute(const Tensor& scores, const Tensor& targets, const Tensor& input_lengths,
                                   const Tensor& target_lengths, std::int64_t blank_index, const Tensor* grad_costs) {
  using Real = Computed<Score>;
  try {
    auto batch = checked_batch<Loss>(array<Score>(scores), array<std::int64_t>(targets),
                                     array<std::int64_t>(input_lengths), array<std::int64_t>(target_lengths),
                                     blank_index);
    batch.item_stride = scores.stride(0), batch.frame_stride = scores.stride(1);
    const auto computed = scores.options().dtype(c10::CppTypeToScalarType<Real>::value);
    Tensor costs = at::empty({batch.batch}, computed), weights, grad;
    if (grad_costs != nullptr) {
      expect(grad_costs->sizes() == costs.sizes(), "grad_costs", grad_costs->sizes().vec(), text({batch.batch}));
      weights = grad_costs->to(costs.scalar_type()).contiguous();
      grad = at::empty(scores.sizes(), scores.options());
    }
    Loss::compute(batch, grad_costs ? weights.const_data_ptr<Real>() : nullptr, costs.mutable_data_ptr<Real>(),
                  grad_costs ? static_cast<Score*>(grad.mutable_data_ptr()) : nullptr, torchs_threads());
    return {costs, grad};
  } catch (const std::invalid_argument& wrong) {
    TORCH_CHECK_VALUE(false, wrong.what());
  }
}

template <class Loss>
std::tuple<Tensor, Tensor> compute(const Tensor& scores, const Tensor& targets, const Tensor& input_lengths,
                                   const Tensor& target_lengths, std::int64_t blank_index, const Tensor* grad_costs) {
  const auto run = [&] {
    switch (scores.scalar_type()) {
      case at::kFloat: return &compute<Loss, float>;
      case at::kDouble: return &compute<Loss, double>;
      case at::kBFloat16: return &compute<Loss, bfloat16>;
      case at::kHalf: return &compute<Loss, float16>;
      default:
        TORCH_CHECK_VALUE(false, Loss::scores, ": got ", scores.scalar_type(), ", expected floating point of 16, 32 or 64 bits");
    }
  }();
  return run(in_rows<Loss>(scores), integers(targets, "targets"), integers(input_lengths, "input_lengths"),
             integers(target_lengths, "target_lengths"), blank_index, grad_costs);
}

template <class Loss>
Tensor loss(const Tensor& scores, const Tensor& targets, const Tensor& input_lengths, const Tensor& target_lengths,
            std::int64_t blank_index) {
  return std::get<0>(compute<Loss>(scores, targets, input_lengths, target_lengths, blank_index, nullptr));
}

template <class Loss>
std::tuple<Tensor, Tensor> loss_grad(const Tensor& scores, const Tensor& targets, const Tensor& input_lengths,
                                     const Tensor& target_lengths, std::int64_t blank_index,
                                     const Tensor& grad_costs) {
  return compute<Loss>(scores, targets, input_lengths, target_lengths, blank_index, &grad_costs);
}

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "").typed<Signature>();
}

// The gradient of an operator is the one beside it, asked for through the dispatcher.
template <class Loss>
struct Differentiable : torch::autograd::Function<Differentiable<Loss>> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& scores, const Tensor& targets,
                        const Tensor& input_lengths, const Tensor& target_lengths, std::int64_t blank_index) {
    static const auto below = find<Lattice>(operator_name<Loss>);
    context->save_for_backward({scores, targets, input_lengths, target_lengths});
    context->saved_data["blank_index"] = blank_index;
    const at::AutoDispatchBelowADInplaceOrView guard;
    return below.call(scores, targets, input_lengths, target_lengths, blank_index);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_costs) {
    static const auto with_grad = find<LatticeGrad>(operator_name<Loss> + std::string("_grad"));
    const auto saved = context->get_saved_variables();
    const Tensor grad = std::get<1>(with_grad.call(saved[0], saved[1], saved[2], saved[3],
                                                   context->saved_data["blank_index"].toInt(), grad_costs[0]));
    return {grad, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

template <class Loss>
Tensor differentiable(const Tensor& scores, const Tensor& targets, const Tensor& input_lengths,
                      const Tensor& target_lengths, std::int64_t blank_index) {
  return Differentiable<Loss>::apply(scores, targets, input_lengths, target_lengths, blank_index);
}

// The gradient has no derivative of its own: who asks for one is told so, as by torch's CTC.
template <class Loss>
struct DifferentiableOnce : torch::autograd::Function<DifferentiableOnce<Loss>> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext*, const Tensor& scores,
                                                const Tensor& targets, const Tensor& input_lengths,
                                                const Tensor& target_lengths, std::int64_t blank_index,
                                                const Tensor& grad_costs) {
    static const auto below = find<LatticeGrad>(operator_name<Loss> + std::string("_grad"));
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [costs, grad] = below.call(scores, targets, input_lengths, target_lengths, blank_index, grad_costs);
    return {costs, grad};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "derivative for ", operator_name<Loss>, "_grad is not implemented");
  }
};

template <class Loss>
std::tuple<Tensor, Tensor> differentiable_once(const Tensor& scores, const Tensor& targets,
                                               const Tensor& input_lengths, const Tensor& target_lengths,
                                               std::int64_t blank_index, const Tensor& grad_costs) {
  const auto outputs = DifferentiableOnce<Loss>::apply(scores, targets, input_lengths, target_lengths, blank_index,
                                                       grad_costs);
  return {outputs[0], outputs[1]};
}

// The arcs, in the type they have, and the rest as integers.
template <class Real>
std::tuple<Tensor, Tensor> compute_arcs(const Tensor& arcs, const Tensor& input_lengths, const Tensor& target_lengths,
                                        Durations blanks, Durations labels, bool label_ends, const Tensor* grad_costs) {
  std::vector<std::int64_t> durations = blanks.vec();
  durations.insert(durations.end(), labels.begin(), labels.end());
  const Shape kinds{static_cast<std::int64_t>(durations.size())};
  try {
    const auto batch = checked_arcs(array<Real>(arcs), {durations.data(), kinds}, array<std::int64_t>(input_lengths),
                                    array<std::int64_t>(target_lengths), static_cast<std::int64_t>(blanks.size()), label_ends);
    Tensor costs = at::empty({batch.batch}, arcs.options()), weights, grad;
    if (grad_costs != nullptr) {
      expect(grad_costs->sizes() == costs.sizes(), "grad_costs", grad_costs->sizes().vec(), text({batch.batch}));
      weights = grad_costs->to(costs.scalar_type()).contiguous();
      grad = at::empty(arcs.sizes(), arcs.options());
    }
    exportable_losses::arcs(batch, grad_costs ? weights.const_data_ptr<Real>() : nullptr, costs.mutable_data_ptr<Real>(),
                            grad_costs ? grad.mutable_data_ptr<Real>() : nullptr, torchs_threads());
    return {costs, grad};
  } catch (const std::invalid_argument& wrong) {
    TORCH_CHECK_VALUE(false, wrong.what());
  }
}

std::tuple<Tensor, Tensor> compute_arcs(const Tensor& arcs, const Tensor& input_lengths, const Tensor& target_lengths,
                                        Durations blanks, Durations labels, bool label_ends, const Tensor* grad_costs) {
  TORCH_CHECK_VALUE(arcs.scalar_type() == at::kFloat || arcs.scalar_type() == at::kDouble, "arcs: got ",
                    arcs.scalar_type(), ", expected floating point of 32 or 64 bits");
  const auto run = arcs.scalar_type() == at::kFloat ? &compute_arcs<float> : &compute_arcs<double>;
  return run(arcs.contiguous(), integers(input_lengths, "input_lengths"), integers(target_lengths, "target_lengths"),
             blanks, labels, label_ends, grad_costs);
}

Tensor arcs_loss(const Tensor& arcs, const Tensor& input_lengths, const Tensor& target_lengths, Durations blanks,
                 Durations labels, bool label_ends) {
  return std::get<0>(compute_arcs(arcs, input_lengths, target_lengths, blanks, labels, label_ends, nullptr));
}

std::tuple<Tensor, Tensor> arcs_loss_grad(const Tensor& arcs, const Tensor& input_lengths, const Tensor& target_lengths,
                                          Durations blanks, Durations labels, bool label_ends, const Tensor& grad_costs) {
  return compute_arcs(arcs, input_lengths, target_lengths, blanks, labels, label_ends, &grad_costs);
}

struct DifferentiableArcs : torch::autograd::Function<DifferentiableArcs> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& arcs, const Tensor& input_lengths,
                        const Tensor& target_lengths, Durations blanks, Durations labels, bool label_ends) {
    static const auto below = find<ArcsCosts>("exportable_losses::arcs_loss");
    context->save_for_backward({arcs, input_lengths, target_lengths});
    context->saved_data["blanks"] = blanks.vec();
    context->saved_data["labels"] = labels.vec();
    context->saved_data["label_ends"] = label_ends;
    const at::AutoDispatchBelowADInplaceOrView guard;
    return below.call(arcs, input_lengths, target_lengths, blanks, labels, label_ends);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_costs) {
    static const auto with_grad = find<ArcsCostsGrad>("exportable_losses::arcs_loss_grad");
    const auto saved = context->get_saved_variables();
    auto& data = context->saved_data;
    const std::vector<std::int64_t> blanks = data["blanks"].toIntVector(), labels = data["labels"].toIntVector();
    const Tensor grad = std::get<1>(
        with_grad.call(saved[0], saved[1], saved[2], blanks, labels, data["label_ends"].toBool(), grad_costs[0]));
    return {grad, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor differentiable_arcs(const Tensor& arcs, const Tensor& input_lengths, const Tensor& target_lengths,
                           Durations blanks, Durations labels, bool label_ends) {
  return DifferentiableArcs::apply(arcs, input_lengths, target_lengths, blanks, labels, label_ends);
}

struct DifferentiableArcsOnce : torch::autograd::Function<DifferentiableArcsOnce> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext*, const Tensor& arcs,
                                                const Tensor& input_lengths, const Tensor& target_lengths,
                                                Durations blanks, Durations labels, bool label_ends,
                                                const Tensor& grad_costs) {
    static const auto below = find<ArcsCostsGrad>("exportable_losses::arcs_loss_grad");
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [costs, grad] = below.call(arcs, input_lengths, target_lengths, blanks, labels, label_ends, grad_costs);
    return {costs, grad};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "derivative for exportable_losses::arcs_loss_grad is not implemented");
  }
};

std::tuple<Tensor, Tensor> differentiable_arcs_once(const Tensor& arcs, const Tensor& input_lengths,
                                                    const Tensor& target_lengths, Durations blanks, Durations labels,
                                                    bool label_ends, const Tensor& grad_costs) {
  const auto outputs =
      DifferentiableArcsOnce::apply(arcs, input_lengths, target_lengths, blanks, labels, label_ends, grad_costs);
  return {outputs[0], outputs[1]};
}

void add_arcs(torch::Library& m) {
  const std::string arguments = "(Tensor arcs, Tensor input_lengths, Tensor target_lengths, int[] blank_durations, "
                                "int[] label_durations, bool label_ends";
  m.def(("arcs_loss" + arguments + ") -> Tensor").c_str());
  m.def(("arcs_loss_grad" + arguments + ", Tensor grad_costs) -> (Tensor, Tensor)").c_str());
  m.impl("arcs_loss", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(arcs_loss)));
  m.impl("arcs_loss_grad", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(arcs_loss_grad)));
  m.impl("arcs_loss", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(differentiable_arcs)));
  m.impl("arcs_loss_grad", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(differentiable_arcs_once)));
}

Tensor edits(const Tensor& predictions, const Tensor& targets, const Tensor& prediction_lengths,
             const Tensor& target_lengths) {
  const Tensor given[] = {integers(predictions, "predictions"), integers(targets, "targets"),
                          integers(prediction_lengths, "prediction_lengths"),
                          integers(target_lengths, "target_lengths")};
  try {
    const auto sequences = checked_sequences(array<std::int64_t>(given[0]), array<std::int64_t>(given[1]),
                                             array<std::int64_t>(given[2]), array<std::int64_t>(given[3]));
    Tensor counts = at::empty({sequences.batch, 3}, given[0].options());
    edit_counts(sequences, counts.mutable_data_ptr<std::int64_t>(), torchs_threads());
    return counts;
  } catch (const std::invalid_argument& wrong) {
    TORCH_CHECK_VALUE(false, wrong.what());
  }
}

constexpr std::int64_t most_sources = 30;  // a number for each of their subsets

// The first of the least, as torch's argmin has it: a NaN is less than any number.
template <class Real>
void take_lesser(Real cost, std::int64_t at, Real& least, std::int64_t& where) {
  if (std::isnan(least) || !(cost < least || std::isnan(cost))) return;
  least = cost, where = at;
}

// Held and Karp's programme over subsets (1962), the computation of ops/assignment.py: rest[set] is what
// the last rows cost once the first ones are assigned to the columns of `set`.
template <class Real>
void assign(const Real* costs, std::int64_t sources, std::int64_t* permutation) {
  const std::int64_t all = (std::int64_t(1) << sources) - 1;
  std::vector<Real> rest(all + 1);
  auto best = [&](std::int64_t row, std::int64_t set) {
    Real least = std::numeric_limits<Real>::infinity();
    std::int64_t where = 0;
    for (std::int64_t column = 0; column < sources; ++column) {
      const std::int64_t bit = std::int64_t(1) << column;
      if (!(set & bit)) take_lesser<Real>(costs[row * sources + column] + rest[set | bit], column, least, where);
    }
    return std::make_pair(least, where);
  };
  for (std::int64_t set = all - 1; set >= 0; --set) {
    std::int64_t row = 0;
    for (std::int64_t left = set; left; left &= left - 1) ++row;
    rest[set] = best(row, set).first;
  }
  for (std::int64_t row = 0, set = 0; row < sources; ++row) {
    permutation[row] = best(row, set).second;
    set |= std::int64_t(1) << permutation[row];
  }
}

Tensor best_permutation(const Tensor& costs) {
  TORCH_CHECK_VALUE(costs.dim() == 3 && costs.size(1) == costs.size(2), "costs: got shape ", costs.sizes(),
                    ", expected [B, S, S]");
  const std::int64_t sources = costs.size(1);
  TORCH_CHECK_VALUE(sources <= most_sources, "costs: got ", sources, " sources, expected at most ", most_sources);
  TORCH_CHECK_VALUE(costs.is_floating_point(), "costs: got ", costs.scalar_type(), ", expected floating point");
  const Tensor rows = costs.contiguous();
  const Tensor permutations = at::empty({costs.size(0), sources}, costs.options().dtype(at::kLong));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, costs.scalar_type(), "best_permutation of costs", [&] {
    const auto* from = rows.const_data_ptr<scalar_t>();
    auto* to = permutations.mutable_data_ptr<std::int64_t>();
    torchs_threads()(costs.size(0), [&](std::int64_t b) {
      assign(from + b * sources * sources, sources, to + b * sources);
    });
  });
  return permutations;
}

template <class Loss>
void add(torch::Library& m, const std::string& loss_name) {
  const std::string arguments = std::string("(Tensor ") + Loss::scores +
                                ", Tensor targets, Tensor input_lengths, Tensor target_lengths, int blank_index";
  m.def((loss_name + arguments + ") -> Tensor").c_str());
  m.def((loss_name + "_grad" + arguments + ", Tensor grad_costs) -> (Tensor, Tensor)").c_str());
  m.impl(loss_name.c_str(), torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(loss<Loss>)));
  m.impl((loss_name + "_grad").c_str(), torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(loss_grad<Loss>)));
  m.impl(loss_name.c_str(), torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(differentiable<Loss>)));
  m.impl((loss_name + "_grad").c_str(),
         torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(differentiable_once<Loss>)));
}

}  // namespace

// A fragment, for where the namespace is taken a library may not throw: it is being loaded.
TORCH_LIBRARY_FRAGMENT(exportable_losses, m) {
  if (c10::Dispatcher::singleton().findSchema({"exportable_losses::ctc_loss", ""})) return;
  add<CTC>(m, "ctc_loss");
  add<Transducer>(m, "transducer_loss");
  add_arcs(m);
  m.def("best_permutation(Tensor costs) -> Tensor");
  m.impl("best_permutation", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(best_permutation)));
  m.def("edit_counts(Tensor predictions, Tensor targets, Tensor prediction_lengths, Tensor target_lengths) -> Tensor");
  m.impl("edit_counts", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(edits)));
}

}  // namespace exportable_losses
