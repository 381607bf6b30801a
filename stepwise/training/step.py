"""One compiled step of a network's training, and what is measured on the probe."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from stepwise import _check, models, views
from stepwise.methods import METHODS, Objective
from stepwise.training.plan import Plan
from stepwise.types import Numbers

LIMIT = 1e6
"""A loss of so many times its start's, and at least so many, counts as diverged."""


class Step:
    """The compiled program of a run.

    Its state is a tree of arrays: parameters, batch statistics, target, optimiser, random key,
    step, and what the log needs between two samples. The program is the global one: with the batch
    shared over a mesh's devices, every mean over it is that of the whole batch.

    Raises:
        ValueError: the images are not uint8 [n, h, w, c] or fewer than a batch; predictor and
            objective do not fit; the mesh cannot share the batch evenly.
    """

    def __init__(
        self,
        encoder: nnx.Module,
        pixels: Numbers,
        objective: Objective,
        plan: Plan,
        predictor: nnx.Module | None,
        mesh: Mesh | None,
    ) -> None:
        shape = np.shape(pixels)
        fits = getattr(pixels, "dtype", None) == np.uint8 and len(shape) == 4
        _check.require(fits, "pixels", "uint8 [n, h, w, c]", pixels)
        _check.require(
            shape[0] >= plan.batch_size,
            "pixels",
            f"at least a batch of {plan.batch_size} images",
            pixels,
        )
        given = "none" if predictor is None else "one"
        wanted = "a module" if objective.predictor else "None, as the objective has none"
        _check.require(objective.predictor == (predictor is not None), "predictor", wanted, given)
        needs = objective.loss in _losses_with_predictor() or (
            getattr(objective.loss, "func", None) in _losses_with_predictor()
        )
        _check.require(
            objective.predictor or not needs,
            "objective",
            "predictor=True for a loss that collapses without",
            "False",
        )
        self.objective, self.plan = objective, plan
        self.mesh = mesh if mesh is not None else _mesh(plan.batch_size)
        devices = self.mesh.devices.size
        _check.require(
            plan.batch_size % devices == 0,
            "mesh",
            f"devices that divide {plan.batch_size}",
            f"{devices}",
        )
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.shared = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names[0]))
        self.forward, params, stats = models.stateful(encoder)
        self.predict, self.params, self.stats = None, {"encoder": params}, {"encoder": stats}
        if predictor is not None:
            self.predict, self.params["predictor"], self.stats["predictor"] = models.stateful(
                predictor
            )
        self.optimiser = plan.optimiser(plan.lr)
        self.pixels = self._placed(pixels)
        some = np.unique(np.linspace(0, len(pixels) - 1, min(plan.probe, len(pixels))).astype(int))
        key = jax.random.fold_in(jax.random.key(plan.seed), 1)
        drawn = self._views(np.asarray(pixels[some]), key)
        self.probe = tuple(self._placed(view) for view in drawn)
        d = jax.eval_shape(self._embedded, params, stats, self.probe[0]).shape[1]
        if objective.parameters is not None:
            self.params["loss"] = jax.tree.map(jnp.asarray, objective.parameters(d))
        first = {} if objective.state is None else objective.state(d)
        self.loss_state = jax.tree.map(jnp.asarray, first)
        self._require_scalar()
        self._advance = jax.jit(self._steps, donate_argnums=0, out_shardings=self.everywhere)
        self._once = jax.jit(self._step, donate_argnums=0, out_shardings=self.everywhere)
        self._probe = jax.jit(self._measure, out_shardings=self.everywhere)

    def _require_scalar(self) -> None:
        """Refuse, before anything is compiled, a loss that is no scalar or changes the form of its
        state.
        """
        state = {"stats": self.stats, "target": self.params["encoder"], "loss": self.loss_state}

        def loss_and_state(*seen: Array) -> tuple[Array, Any]:
            loss, _, _, _, after = self._loss(self.params, state, seen)
            return jnp.asarray(loss), after

        loss, after = jax.eval_shape(loss_and_state, *self.probe)
        fits = loss.shape == () and jnp.issubdtype(loss.dtype, jnp.floating)
        _check.require(fits, "objective", "a loss that is one real number", loss)
        before = jax.eval_shape(lambda: self.loss_state)
        forms = [
            (str(jax.tree.structure(tree)), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)])
            for tree in (before, after)
        ]
        form = f"the next state of the loss in the form of the first, {before}"
        _check.require(forms[0] == forms[1], "objective", form, f"{after}")

    def start(self) -> Any:
        """The state before the first step."""
        # copies, because the state is donated and the module keeps its own
        params = jax.tree.map(jnp.array, self.params)
        state = {
            "params": params,
            "stats": jax.tree.map(jnp.array, self.stats),
            "target": jax.tree.map(jnp.array, params["encoder"])
            if self.objective.decay is not None
            else {},
            "loss": jax.tree.map(jnp.array, self.loss_state),
            "optimiser": jax.jit(self.optimiser.init)(params),
            "key": jax.random.key_data(jax.random.fold_in(jax.random.key(self.plan.seed), 0)),
            "step": jnp.asarray(0, jnp.int32),
            "ok": jnp.asarray(True),
            "first_loss": jnp.asarray(jnp.nan, float),
            "loss_sum": jnp.asarray(0.0, float),
            "taken": jnp.asarray(0, jnp.int32),
        }
        return jax.tree.map(self._placed, state)

    def advance(self, state: Any, steps: int) -> Any:
        """The state so many steps on, or before the first bad one with "ok" False; the given one is
        used up.
        """
        if jax.default_backend() != "cpu":
            return self._advance(state, jnp.asarray(steps, jnp.int32), self.pixels)
        # XLA's CPU backend computes a convolution's weight gradient some 250 times as slowly inside
        # a loop as outside
        for _ in range(steps):
            state = self._once(state, self.pixels)
        return state

    def mark_failed(self, state: Any) -> Any:
        """The state as one after which nothing good comes."""
        return state | {"ok": self._placed(jnp.asarray(False))}

    def reset_mean_loss(self, state: Any) -> Any:
        """The state with the mean of the training loss begun again."""
        zero = {"loss_sum": jnp.asarray(0.0, float), "taken": jnp.asarray(0, jnp.int32)}
        return state | jax.tree.map(self._placed, zero)

    def evaluate_probe(
        self, state: Any
    ) -> tuple[np.ndarray, np.ndarray, float, dict[str, np.ndarray]]:
        """Embeddings of the probe's first two views [k, d], the loss, and hidden representations
        of all views.

        Normalised by the probe's own statistics, as training normalises by its batch's: the running
        ones lag behind, which at each step of the staircase shows as eigenvalues several times too
        large.
        """
        z, loss, hidden = jax.tree.map(np.asarray, self._probe(state, *self.probe))
        count = self.objective.views
        return z[0::count], z[1::count], float(loss), hidden

    def gradient(self, state: Any) -> tuple[Float[Array, ""], Any, Any]:
        """Loss, batch statistics after it, and gradient of the next step."""
        (loss, (stats, _)), slopes = jax.jit(self._slopes, out_shardings=self.everywhere)(
            state, self.pixels
        )
        return loss, stats, slopes

    def _placed(self, array: Any) -> Any:
        return jax.make_array_from_callback(
            np.shape(array), self.everywhere, lambda at: np.asarray(array)[at]
        )

    def _steps(self, state: Any, steps: Array, pixels: Array) -> Any:
        until = state["step"] + steps
        return jax.lax.while_loop(
            lambda state: (state["step"] < until) & state["ok"],
            lambda state: self._step(state, pixels),
            state,
        )

    def _step(self, state: Any, pixels: Array) -> Any:
        (loss, (stats, loss_state)), slopes = self._slopes(state, pixels)
        loss = loss.astype(state["first_loss"].dtype)
        first = jnp.where(state["step"] == 0, loss, state["first_loss"])
        ok = (
            state["ok"]
            & jnp.isfinite(loss)
            & jnp.isfinite(optax.tree.norm(slopes))
            & (loss < LIMIT * jnp.maximum(1, first))
        )
        updates, optimiser = self.optimiser.update(slopes, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {
            "params": params,
            "stats": stats,
            "target": self._target(state, params),
            "loss": loss_state,
            "optimiser": optimiser,
            "step": state["step"] + 1,
            "first_loss": first,
            "loss_sum": state["loss_sum"] + loss,
            "taken": state["taken"] + 1,
        }
        kept = {name: state[name] for name in new}
        return jax.tree.map(partial(jnp.where, ok), new, kept) | {"key": state["key"], "ok": ok}

    def _slopes(self, state: Any, pixels: Array) -> tuple[tuple[Array, Any], Any]:
        order, drawn = jax.random.split(jax.random.wrap_key_data(state["key"]))
        batch = self._batch(order, state["step"], pixels)
        seen = self._views(batch, jax.random.fold_in(drawn, state["step"]))

        def objective(params: Any) -> tuple[Array, Any]:
            loss, _, _, stats, loss_state = self._loss(params, state, seen)
            return loss, (stats, loss_state)

        return jax.value_and_grad(objective, has_aux=True)(state["params"])

    def _views(self, pixels: Numbers, key: Array) -> tuple[Array, ...]:
        """As many views of every image as the objective has; the first two are a positive pair."""
        count = self.objective.views
        keys = [key, *(jax.random.fold_in(key, i) for i in range(1, (count + 1) // 2))]
        pairs = [views.positive_pairs(pixels, each, self.plan.recipe) for each in keys]
        return tuple(view for pair in pairs for view in pair)[:count]

    def _embedded(self, params: Any, stats: Any, images: Array) -> Array:
        return self.forward(params, stats, images, True)[0]

    def _batch(self, key: Array, step: Array, pixels: Array) -> Array:
        """Images of a step: an epoch's own permutation, in order, its partial batch dropped."""
        size = self.plan.batch_size
        a_whole = len(pixels) // size
        order = jax.random.permutation(jax.random.fold_in(key, step // a_whole), len(pixels))
        chosen = jax.lax.dynamic_slice_in_dim(order, (step % a_whole) * size, size)
        return jax.lax.with_sharding_constraint(pixels[chosen], self.shared)

    def _loss(
        self, params: Any, state: Any, seen: tuple[Array, ...]
    ) -> tuple[Array, Array, dict[str, Array], Any, Any]:
        """The loss, embeddings of all views in turn [views · n, d], representations, new batch
        statistics, the loss's next state.
        """
        # the views of an image beside one another, so that each device keeps the images that it has
        count, stats = len(seen), state["stats"]
        together = jnp.stack(seen, axis=1)
        if len(together) % self.mesh.devices.size == 0:
            together = jax.lax.with_sharding_constraint(together, self.shared)
        images = together.reshape(-1, *together.shape[2:])
        new = dict(stats)
        z, hidden, new["encoder"] = self.forward(params["encoder"], stats["encoder"], images, True)
        online = z
        if self.predict is not None:
            online, _, new["predictor"] = self.predict(
                params["predictor"], stats["predictor"], z, True
            )
        given = [online[i::count] for i in range(count)]
        if self.objective.decay is not None:
            target = jax.lax.stop_gradient(state["target"])
            fixed = self.forward(target, stats["encoder"], images, True)[0]
            given += [fixed[i::count] for i in range(count)]
        elif self.predict is not None:
            given += [z[i::count] for i in range(count)]
        extra = {} if self.objective.parameters is None else {"parameters": params["loss"]}
        if self.objective.state is None:
            return self.objective.loss(*given, **extra), z, hidden, new, {}
        loss, loss_state = self.objective.loss(*given, state=state["loss"], **extra)
        return loss, z, hidden, new, jax.lax.stop_gradient(loss_state)

    def _target(self, state: Any, params: Any) -> Any:
        if self.objective.decay is None:
            return {}
        along = (1 + jnp.cos(jnp.pi * state["step"] / self.plan.steps)) / 2
        decay = 1 - (1 - self.objective.decay) * along
        return optax.incremental_update(params["encoder"], state["target"], 1 - decay)

    def _measure(self, state: Any, *seen: Array) -> tuple[Array, Array, dict[str, Array]]:
        loss, z, hidden, _, _ = self._loss(state["params"], state, seen)
        return z, loss, hidden


def _losses_with_predictor() -> list[Any]:
    """Losses that collapse without the predictor that their method has."""
    return [row.objective.loss for row in METHODS.values() if row.objective.predictor]


def _mesh(batch_size: int) -> Mesh:
    devices = jax.devices()
    return Mesh(np.array(devices if batch_size % len(devices) == 0 else devices[:1]), ("data",))
