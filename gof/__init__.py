"""GOF: generative occupancy fields, and the pi-GAN they stand on: a random code to pictures with compact surfaces."""
