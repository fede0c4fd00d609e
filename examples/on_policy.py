"""On-policy distillation of a language model: the student writes, the teacher judges each letter.

The texts are short definitions from WordNet, read and written character by character. A student
learns them from people's texts, and goes on by KD, on the same texts or on its own.

Paper: Agarwal et al., 2024, arXiv 2306.13649 (GKD); Gu et al., 2024, arXiv 2306.08543 (MiniLLM).
Run: python examples/on_policy.py
Prints how often students foresee the next letter of test definitions, and how probable the teacher
finds what they write, in nats per letter; then what ten seeds showed (claim reverse-kl).
"""

from functools import partial

import torch

from kdcourse import CrossEntropy, LogitKD, claims, fit, language, metrics, models, teachers
from kdcourse.training.schedules import one_cycle


def main(images=2000, epochs=1):
    """Let students go on in three ways; return the last, which learned by reverse KL."""
    splits, teacher = language.wordnet(), teachers.pretrained("definitions")
    vocabulary, known, test = splits.vocabulary, splits.train[:images], splits.test[:300]
    prompts, (inputs, target) = vocabulary.encode(test.prompts), test.lessons(vocabulary)
    adam = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.01)
    options = {"optimizer": adam, "scheduler": one_cycle}

    def learn(share, terms, start=None, asked=teacher, times=1):
        student = models.language_model(48, 2, 4, len(vocabulary), seed=0)
        student.load_state_dict(start or student.state_dict())
        texts = language.OnPolicy(student, known, vocabulary, share=share, batch_size=32)
        fit(student, texts, terms, teacher=asked, epochs=times * epochs, **options)
        return student

    start = learn(0.0, CrossEntropy(class_dim=-1), asked=None, times=4).state_dict()
    kd = partial(LogitKD, 1.0, class_dim=-1, ignore_index=-1)
    for name, share, terms in (
        ("people's texts", 0.0, kd()),
        ("its own texts", 1.0, kd()),
        ("its own, reverse KL", 1.0, kd(divergence="reverse")),
    ):
        student = learn(share, terms, start)
        right = metrics.predict(student, inputs).argmax(dim=2) == target
        draw = torch.Generator().manual_seed(0)
        made = language.sample(student, prompts, length=78, end=vocabulary.end, generator=draw)
        nats = language.nats_per_token(teacher, language.lessons(made, prompts, vocabulary))
        share_right = float(right[target >= 0].float().mean())
        print(f"{name}: {share_right:.1%} of letters foreseen, {nats:.2f} nats on what it writes")
        print("  " + vocabulary.decode(made)[0].strip())
    print("\nMean of seeds [95 % interval]:", claims.load("reverse-kl"), sep="\n")
    return student


if __name__ == "__main__":
    main()
