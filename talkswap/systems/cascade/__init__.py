"""The paper's yardsticks: published networks for one job each, run one after the other on the same crop (Table I)."""
