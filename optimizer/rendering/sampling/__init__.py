"""How images are sampled from noise: noise levels, schedules, samplers, and the noise of later steps."""
