"""One compiled training step of a network, and its evaluation on the probe."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from stepwise import _check, _random, losses, models, views
from stepwise.methods import METHODS, Objective
from stepwise.training.optimiser import Optimiser
from stepwise.training.plan import Plan
from stepwise.types import Numbers

LIMIT = 1e6
"""A run has diverged if its loss reaches LIMIT times max(1, first loss)."""


class Step:
    """The compiled program of a run.

    Its state is a tree of arrays: parameters, batch statistics, target network, state of the loss,
    state of the optimiser, random key, step, and the sums behind the mean training loss. When a
    mesh shards the batch over devices, every mean over the batch is that of the whole batch.

    Args:
        encoder: images [k, h, w, c] in [0, 1] -> embeddings [k, d].
        pixels: uint8 [n, h, w, c].
        objective: the loss, and the predictor and target network that it needs.
        plan: the hyper-parameters.
        predictor: a module from embeddings to predictions; None for an objective without one.
        mesh: devices that share each batch; None takes all, or one if they do not divide the batch.

    Raises:
        ValueError: if the images are not uint8 [n, h, w, c] or are fewer than a batch; predictor
            and objective do not fit; the loss is not one real number, or changes the form of its
            state; or the devices of the mesh do not divide the batch.
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
        fits = isinstance(objective, Objective)
        _check.require(fits, "objective", "an Objective", type(objective).__name__)
        received = "none" if predictor is None else "one"
        expected = "a module" if objective.predictor else "None, as the objective has none"
        fits = objective.predictor == (predictor is not None)
        _check.require(fits, "predictor", expected, received)
        inside = _inner(objective.loss)
        needs = inside in _losses_with_predictor()
        _check.require(
            objective.predictor or not needs,
            "objective",
            "predictor=True for a loss that collapses without a predictor",
            "False",
        )
        self.objective, self.plan = objective, plan
        self.mesh = mesh if mesh is not None else _default_mesh(plan.batch_size)
        devices = self.mesh.devices.size
        _check.require(
            plan.batch_size % devices == 0,
            "mesh",
            f"a number of devices that divides the batch size {plan.batch_size}",
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
        self.optimiser = Optimiser(plan)
        recipe = views.RECIPES[plan.recipe] if isinstance(plan.recipe, str) else plan.recipe
        self.multicrop = recipe if isinstance(recipe, views.MultiCrop) else None
        fits = self.multicrop is None or "local" in inspect.signature(inside).parameters
        _check.require(fits, "recipe", "two views, as the loss takes no local crops", "a MultiCrop")
        self.pixels = self._place(pixels)
        rows = np.unique(np.linspace(0, len(pixels) - 1, min(plan.probe, len(pixels))).astype(int))
        key = jax.random.fold_in(_random.key(plan.seed), 1)
        probe = self._draw_views(np.asarray(pixels[rows]), key)
        self.probe = tuple(self._place(view) for view in probe)
        out = jax.eval_shape(self._embed, params, stats, self.probe[0])
        form = (
            f"{out.dtype} {list(out.shape)} of {len(self.probe[0])} images"
            if hasattr(out, "shape")
            else type(out).__name__
        )
        fits = len(getattr(out, "shape", ())) == 2 and jnp.issubdtype(out.dtype, jnp.floating)
        _check.require(fits, "encoder", "real embeddings [k, d] of k images", form)
        d = out.shape[1]
        if objective.parameters is not None:
            self.params["loss"] = jax.tree.map(jnp.asarray, objective.parameters(d))
        first = {} if objective.state is None else objective.state(d)
        self.loss_state = jax.tree.map(jnp.asarray, first)
        self._require_scalar()
        self._advance = jax.jit(self._take_steps, donate_argnums=0, out_shardings=self.everywhere)
        self._advance_one = jax.jit(
            self._take_step, donate_argnums=0, out_shardings=self.everywhere
        )
        self._probe = jax.jit(self._measure, out_shardings=self.everywhere)

    def _require_scalar(self) -> None:
        """Reject a loss that is not a scalar or changes the form of its state, before compiling."""
        state = {"stats": self.stats, "target": self.params["encoder"], "loss": self.loss_state}

        def loss_and_state(*batch_views: Array) -> tuple[Array, Any]:
            loss, _, _, _, after = self._loss(self.params, state, batch_views)
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
        """Return the state before the first step."""
        # copies, because the state is donated and the module's own arrays must remain valid
        params = jax.tree.map(jnp.array, self.params)
        state = {
            "params": params,
            "stats": jax.tree.map(jnp.array, self.stats),
            "target": jax.tree.map(jnp.array, params["encoder"])
            if self.objective.decay is not None
            else {},
            "loss": jax.tree.map(jnp.array, self.loss_state),
            "optimiser": self.optimiser.init(params),
            "key": jax.random.key_data(jax.random.fold_in(_random.key(self.plan.seed), 0)),
            "step": jnp.asarray(0, jnp.int32),
            "ok": jnp.asarray(True),
            "first_loss": jnp.asarray(jnp.nan, float),
            "loss_sum": jnp.asarray(0.0, float),
            "taken": jnp.asarray(0, jnp.int32),
        }
        return jax.tree.map(self._place, state)

    def advance(self, state: Any, steps: int) -> Any:
        """Advance the state by `steps` steps.

        If a step diverges, the state before it is returned, with "ok" False. The buffers of the
        argument `state` are donated, so it cannot be used again.
        """
        if jax.default_backend() != "cpu":
            return self._advance(state, jnp.asarray(steps, jnp.int32), self.pixels)
        # a Python loop, because XLA's CPU backend computes the weight gradient of a convolution
        # about 250 times as slowly inside a compiled loop
        for _ in range(steps):
            state = self._advance_one(state, self.pixels)
        return state

    def mark_failed(self, state: Any) -> Any:
        """Return the state marked as diverged."""
        return state | {"ok": self._place(jnp.asarray(False))}

    def reset_mean_loss(self, state: Any) -> Any:
        """Return the state with the mean of the training loss reset."""
        zero = {"loss_sum": jnp.asarray(0.0, float), "taken": jnp.asarray(0, jnp.int32)}
        return state | jax.tree.map(self._place, zero)

    def evaluate_probe(
        self, state: Any
    ) -> tuple[np.ndarray, np.ndarray, float, dict[str, np.ndarray]]:
        """Evaluate the network on the probe.

        Batch normalisation uses the probe's own statistics, as training uses those of its batch.
        The running statistics lag behind, and would make eigenvalues several times too large at
        each step of the staircase. Dropout is off.

        Returns:
            Embeddings of the first view [k, d], embeddings of the second view [k, d], the loss, and
            the hidden representations of all views by name [views · k, f].
        """
        z, loss, hidden = jax.tree.map(np.asarray, self._probe(state, *self.probe))
        count = self.objective.views
        return z[0::count], z[1::count], float(loss), hidden

    def gradient(self, state: Any) -> tuple[Float[Array, ""], Any, Any]:
        """Return the loss of the next step, the batch statistics after it, and the gradient."""

        def differentiate(state: Any, pixels: Array) -> Any:
            objective = self._objective(state, pixels)
            return jax.value_and_grad(objective, has_aux=True)(state["params"])

        differentiate = jax.jit(differentiate, out_shardings=self.everywhere)
        (loss, (stats, _)), slopes = differentiate(state, self.pixels)
        return loss, stats, slopes

    def _place(self, array: Any) -> Any:
        """Return the array on every device of the mesh."""
        return jax.make_array_from_callback(
            np.shape(array), self.everywhere, lambda index: np.asarray(array)[index]
        )

    def _take_steps(self, state: Any, steps: Array, pixels: Array) -> Any:
        end = state["step"] + steps
        return jax.lax.while_loop(
            lambda state: (state["step"] < end) & state["ok"],
            lambda state: self._take_step(state, pixels),
            state,
        )

    def _take_step(self, state: Any, pixels: Array) -> Any:
        objective = self._objective(state, pixels)
        (loss, (stats, loss_state)), slopes = jax.value_and_grad(objective, has_aux=True)(
            state["params"]
        )
        loss = loss.astype(state["first_loss"].dtype)
        first = jnp.where(state["step"] == 0, loss, state["first_loss"])
        ok = (
            state["ok"]
            & jnp.isfinite(loss)
            & jnp.isfinite(optax.tree.norm(slopes))
            & (loss < LIMIT * jnp.maximum(1, first))
        )
        updates, optimiser = self.optimiser.update(
            slopes, state["optimiser"], state["params"], lambda params: objective(params)[0], loss
        )
        params = optax.apply_updates(state["params"], updates)
        if self.objective.project is not None:
            params = params | {"loss": self.objective.project(params["loss"])}
        new = {
            "params": params,
            "stats": stats,
            "target": self._update_target(state, params),
            "loss": loss_state,
            "optimiser": optimiser,
            "step": state["step"] + 1,
            "first_loss": first,
            "loss_sum": state["loss_sum"] + loss,
            "taken": state["taken"] + 1,
        }
        old = {name: state[name] for name in new}
        return jax.tree.map(partial(jnp.where, ok), new, old) | {"key": state["key"], "ok": ok}

    def _objective(self, state: Any, pixels: Array) -> Callable[[Any], tuple[Array, Any]]:
        """Return the loss of the next batch, as a function of the parameters."""
        key = jax.random.wrap_key_data(state["key"], impl=_random.GENERATOR)
        order_key, view_key = jax.random.split(key)
        batch = self._draw_batch(order_key, state["step"], pixels)
        view_key = jax.random.fold_in(view_key, state["step"])
        batch_views = self._draw_views(batch, view_key)
        crops: tuple[Array, ...] = ()
        if self.multicrop is not None:
            crops = views.local_crops(batch, view_key, self.multicrop)

        def objective(params: Any) -> tuple[Array, Any]:
            loss, _, _, stats, loss_state = self._loss(params, state, batch_views, local=crops)
            return loss, (stats, loss_state)

        return objective

    def _draw_views(self, pixels: Numbers, key: Array) -> tuple[Array, ...]:
        """Draw as many views of every image as the objective asks; the first two are a pair."""
        count = self.objective.views
        keys = [key, *(jax.random.fold_in(key, i) for i in range(1, (count + 1) // 2))]
        pairs = [views.positive_pairs(pixels, each, self.plan.recipe) for each in keys]
        return tuple(view for pair in pairs for view in pair)[:count]

    def _embed(self, params: Any, stats: Any, images: Array) -> Any:
        return self.forward(params, stats, images, True)[0]

    def _draw_batch(self, key: Array, step: Array, pixels: Array) -> Array:
        """Return the images of a step.

        Each epoch runs through a permutation of its own and drops the last, partial batch.
        """
        size = self.plan.batch_size
        batches = len(pixels) // size
        order = jax.random.permutation(jax.random.fold_in(key, step // batches), len(pixels))
        rows = jax.lax.dynamic_slice_in_dim(order, (step % batches) * size, size)
        return jax.lax.with_sharding_constraint(pixels[rows], self.shared)

    def _together(self, batch_views: tuple[Array, ...]) -> Array:
        """Return all views as one batch, those of an image in adjacent rows.

        So all of them stay on the image's device.
        """
        stacked = jnp.stack(batch_views, axis=1)
        if len(stacked) % self.mesh.devices.size == 0:
            stacked = jax.lax.with_sharding_constraint(stacked, self.shared)
        return stacked.reshape(-1, *stacked.shape[2:])

    def _loss(
        self,
        params: Any,
        state: Any,
        batch_views: tuple[Array, ...],
        dropout: bool = True,
        local: tuple[Array, ...] = (),
    ) -> tuple[Array, Array, dict[str, Array], Any, Any]:
        """Return the loss, the embeddings [views · n, d] with all views of an image in adjacent
        rows, the hidden representations, the new batch statistics, and the loss's next state.
        """
        count, stats = len(batch_views), state["stats"]
        images = self._together(batch_views)
        new = dict(stats)
        z, hidden, new["encoder"] = self.forward(
            params["encoder"], stats["encoder"], images, True, dropout
        )
        online = z
        if self.predict is not None:
            online, _, new["predictor"] = self.predict(
                params["predictor"], stats["predictor"], z, True, dropout
            )
        arguments = [online[i::count] for i in range(count)]
        if self.objective.decay is not None:
            target = jax.lax.stop_gradient(state["target"])
            fixed = self.forward(target, stats["encoder"], images, True, dropout)[0]
            arguments += [fixed[i::count] for i in range(count)]
        elif self.predict is not None:
            arguments += [z[i::count] for i in range(count)]
        extra = {} if self.objective.parameters is None else {"parameters": params["loss"]}
        if local:
            # a batch of its own, with its own batch statistics, because the crops are smaller
            crops, _, new["encoder"] = self.forward(
                params["encoder"], new["encoder"], self._together(local), True, dropout
            )
            if self.predict is not None:
                crops, _, new["predictor"] = self.predict(
                    params["predictor"], new["predictor"], crops, True, dropout
                )
            extra["local"] = [crops[i :: len(local)] for i in range(len(local))]
        if self.objective.state is None:
            return self.objective.loss(*arguments, **extra), z, hidden, new, {}
        loss, loss_state = self.objective.loss(*arguments, state=state["loss"], **extra)
        return loss, z, hidden, new, jax.lax.stop_gradient(loss_state)

    def _update_target(self, state: Any, params: Any) -> Any:
        if self.objective.decay is None:
            return {}
        cosine = (1 + jnp.cos(jnp.pi * state["step"] / self.plan.steps)) / 2
        decay = 1 - (1 - self.objective.decay) * cosine
        return optax.incremental_update(params["encoder"], state["target"], 1 - decay)

    def _measure(self, state: Any, *probe: Array) -> tuple[Array, Array, dict[str, Array]]:
        loss, z, hidden, _, _ = self._loss(state["params"], state, probe, dropout=False)
        return z, loss, hidden


def _inner(loss: Any) -> Any:
    """Return the loss inside `functools.partial` and `losses.centred`."""
    while isinstance(loss, partial):
        loss = loss.args[0] if loss.func is losses.centred and loss.args else loss.func
    return loss


def _losses_with_predictor() -> list[Any]:
    """Return the losses of all methods with a predictor; without one, they collapse."""
    return [row.objective.loss for row in METHODS.values() if row.objective.predictor]


def _default_mesh(batch_size: int) -> Mesh:
    """Return a mesh of all devices, or of one if they do not divide the batch."""
    devices = jax.devices()
    return Mesh(np.array(devices if batch_size % len(devices) == 0 else devices[:1]), ("data",))
