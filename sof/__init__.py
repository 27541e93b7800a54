"""SOF, the semantic occupancy field of SofGAN (Chen et al., ACM TOG 41(1), 2022, arXiv 2007.03780): label maps of a head from any view."""
