#!/usr/bin/env python3
"""Makes tests/goldens/credit/credit.json: losses with their gradients by torch's autograd, and advantages, in float64.

    python3 tools/golden_credit.py            # needs torch; writes the golden, says what made it

Every loss is written as its paper writes it, over whole sequences, and differentiated by torch; nothing here knows how
haggle computes it. Inputs are rounded to float32 first, so that both sides start from the same numbers.
"""
import json
import pathlib

import torch

torch.set_default_dtype(torch.float64)
LENGTHS = [3, 5, 1, 7, 2, 4]
LOW, HIGH = 0.2, 0.28


def f32(x):
    return x.to(torch.float32).to(torch.float64)


def sequences(x):
    return torch.split(x, LENGTHS)


def token_mean(per_token):
    return torch.cat(per_token).mean()


def sequence_mean(per_token):
    return torch.stack([x.mean() for x in per_token]).mean()


def constant(per_token):
    return torch.stack([x.sum() / 8 for x in per_token]).mean()


def clip(lp, old, a, low=LOW, high=HIGH, dual=None):
    r = torch.exp(lp - old)
    loss = torch.maximum(-a * r, -a * torch.clamp(r, 1 - low, 1 + high))
    if dual is None:
        return loss
    return torch.where(a < 0, torch.minimum(loss, -dual * a), loss)


def cispo(lp, old, a, high=HIGH):
    r = torch.clamp(torch.exp(lp - old), 1 - LOW, 1 + high).detach()
    return -r * a * lp


def gspo(lp, old, a):
    s = torch.exp((lp - old).mean()) * torch.ones_like(lp)
    return torch.maximum(-a * s, -a * torch.clamp(s, 1 - LOW, 1 + HIGH))


def weighted(lp, old, a, weight):
    r = torch.exp(lp - lp.detach())
    return -weight.detach() * a * r


def tis(lp, old, a):
    return weighted(lp, old, a, torch.clamp(torch.exp(lp - old), max=1.1))


def mis(lp, old, a):
    r = torch.exp(lp - old)
    return weighted(lp, old, a, torch.where((r >= 0.8) & (r <= 1.25), r, torch.zeros_like(r)))


def tis_sequence(lp, old, a):
    return weighted(lp, old, a, torch.clamp(torch.exp((lp - old).sum()), max=1.1) * torch.ones_like(lp))


def kl(lp, ref, estimator):
    x = ref - lp
    return {"k1": -x, "k2": x * x / 2, "k3": torch.exp(x) - x - 1}[estimator]


def losses(lp, old, ref, adv, entropy):
    each = lambda rule, **how: [rule(*parts, **how) for parts in zip(sequences(lp), sequences(old), sequences(adv))]
    yield "grpo", sequence_mean(each(clip, high=LOW))
    yield "dr_grpo", constant(each(clip, high=LOW))
    yield "dapo", token_mean(each(clip))
    yield "dual_clip", token_mean(each(clip, dual=1.3))
    yield "cispo", token_mean(each(cispo))
    yield "gspo", sequence_mean(each(gspo))
    yield "tis", token_mean(each(tis))
    yield "tis_sequence", token_mean(each(tis_sequence))
    yield "mis", token_mean(each(mis))
    for estimator in ("k1", "k2", "k3"):
        penalty = [0.05 * kl(*parts, estimator) for parts in zip(sequences(lp), sequences(ref))]
        yield estimator, token_mean([x + y for x, y in zip(each(clip), penalty)])
    yield "entropy", token_mean([x - 0.02 * h for x, h in zip(each(clip), sequences(entropy))])


def whiten(x, weight, eps):
    mean = (weight * x).sum() / weight.sum()
    return (x - mean) / (((weight * (x - mean) ** 2).sum() / weight.sum()).sqrt() + eps)


def advantages(rewards, lengths, parts):
    flat = lambda x: x.reshape(-1).tolist()
    mean = rewards.mean(1, keepdim=True)
    std = rewards.std(1, keepdim=True, correction=0)
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    weight = lengths.reshape(-1)
    total = sum(w * torch.stack([whiten(g, torch.ones_like(g), 1e-4) for g in part]) for w, part in parts)
    return {
        "grpo": flat((rewards - mean) / (std + 1e-6)),
        "dr_grpo": flat(rewards - mean),
        "rloo": flat(rewards - others),
        "reinforce_pp": flat(whiten(rewards.reshape(-1), weight, 1e-8)),
        "reinforce_pp_baseline": flat(whiten((rewards - mean).reshape(-1), weight, 1e-8)),
        "opo": flat(rewards - (lengths * rewards).sum(1, keepdim=True) / lengths.sum(1, keepdim=True)),
        "gdpo": flat(whiten(total.reshape(-1), torch.ones(total.numel()), 1e-4)),
    }


def main():
    noise = torch.Generator().manual_seed(11)
    normal = lambda *shape: torch.randn(*shape, generator=noise)
    n = sum(LENGTHS)
    lp = f32(-normal(n).abs() - 0.1)
    old, ref = f32(lp + 0.3 * normal(n)), f32(lp + 0.4 * normal(n))
    adv = f32(torch.repeat_interleave(normal(len(LENGTHS)), torch.tensor(LENGTHS)))
    entropy = f32(normal(n).abs())
    cases = {}
    for name, _ in losses(lp, old, ref, adv, entropy):
        x = lp.clone().requires_grad_()
        loss = dict(losses(x, old, ref, adv, entropy))[name]
        loss.backward()
        cases[name] = {"loss": loss.item(), "dlogprob": x.grad.tolist()}
    rewards, lengths = f32(normal(3, 4)), torch.randint(1, 40, (3, 4), generator=noise).to(torch.float64)
    parts = [(1.0, rewards), (0.5, f32((normal(3, 4) > 0).to(torch.float64)))]
    golden = {
        "producer": "tools/golden_credit.py",
        "torch": torch.__version__,
        "seed": 11,
        "lengths": LENGTHS,
        "logprob": lp.tolist(),
        "old": old.tolist(),
        "reference": ref.tolist(),
        "advantage": adv.tolist(),
        "entropy": entropy.tolist(),
        "losses": cases,
        "rewards": rewards.reshape(-1).tolist(),
        "reward_lengths": lengths.reshape(-1).tolist(),
        "parts": [[w, p.reshape(-1).tolist()] for w, p in parts],
        "advantages": advantages(rewards, lengths, parts),
    }
    path = pathlib.Path(__file__).parent.parent / "tests/goldens/credit/credit.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{path}: {len(cases)} losses, {len(golden['advantages'])} advantages, torch {torch.__version__}")


if __name__ == "__main__":
    main()
