"""Tables -> targets: k-core, rules, samples, splits, cold cuts, beside the paper's Table II."""
