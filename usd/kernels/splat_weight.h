// Included in the loop over a splat's pixels, a group of them at once: how much it adds to them.
//   before   light that reaches the splat; alpha, weight: its own opacity there, and that times the light
//   drawn    where it is drawn; dark: where the pixel ends before it; solid: where its opacity is the largest allowed
                const V dx = columns(begin) - e[0], dy = rows_of(begin) - e[1], before = light[begin];
                const V falloff = exp_of(-0.5f * (e[2] * dx * dx + e[4] * dy * dy) - e[3] * dx * dy);
                const V raw = e[5] * falloff;
                const I solid = (I)(raw > zero + MOST_ALPHA);
                const V alpha = choose(solid, zero + MOST_ALPHA, raw);
                const I seen = (I)(alpha >= zero + LEAST_ALPHA);
                // A pixel ends with the splat that would leave no light worth going on for.
                const I lit = (I)(before * (1.0f - alpha) > zero + LEAST_LIGHT);
                const I drawn = seen & lit, dark = seen & ~lit & (I)(before > zero);
                const V weight = choose(drawn, before * alpha, zero);
