import { HttpClient, HttpContext, HttpErrorResponse, HttpResponse } from '@angular/common/http';
import { DOCUMENT, inject, Injectable } from '@angular/core';
import { digest, keyHeader, PinnedKey } from 'flask-idempotency';
import { catchError, defer, Observable, switchMap } from 'rxjs';

import { Course, COURSE } from './logical-request';
import { IDEMPOTENCY_SETTINGS } from './settings';
import { isReplay } from './verdict';

/**
 * Makes payments, each with one key that is kept in the browser until the payment is settled: a retry, a second click,
 * another tab or a reload in mid-payment repeats it and pays once.
 */
@Injectable({ providedIn: 'root' })
export class PaymentService {
  readonly #http = inject(HttpClient);
  readonly #settings = inject(IDEMPOTENCY_SETTINGS);
  readonly #document = inject(DOCUMENT);

  /**
   * Pay for `name`, such as `"order-17"`: POST `payment` to `url` as JSON, under the key of this payment.
   *
   * The key belongs to the name, the URL and the payment together: an edited payment is another one, with another key.
   * So repeat what is `unfinished()` as it was, before you let anybody edit it, or both may be paid. Whoever
   * unsubscribes stops waiting for the answer; the key stays. Fails with `KeyOutlived` or `KeyNotKept`, before anything
   * is sent, where a key is of no use.
   */
  pay<Receipt>(name: string, url: string, payment: unknown): Observable<Receipt> {
    const body = JSON.stringify(payment);
    const payload = digest('POST', this.#absolute(url), body);
    return defer(() => this.#settings.pending.pin(name, payload)).pipe(
      switchMap((pinned) => this.#send<Receipt>(pinned, url, JSON.parse(body))),
    );
  }

  /** The payments that are not settled, oldest first: what to take up after a reload. */
  unfinished(): Promise<PinnedKey[]> {
    return this.#settings.pending.unfinished();
  }

  /** Drop the keys of `name`, once somebody found out that it was not paid: the next payment may be a second one. */
  forget(name: string): Promise<void> {
    return this.#settings.pending.forget(name);
  }

  #send<Receipt>(pinned: PinnedKey, url: string, payment: unknown): Observable<Receipt> {
    const { policy } = this.#settings;
    const course: Course = { inDoubt: false };
    const options = {
      headers: { [policy.header]: keyHeader(pinned.key, policy) },
      context: new HttpContext().set(COURSE, course),
      observe: 'response',
    } as const;
    return this.#http.post<Receipt>(url, payment, options).pipe(
      switchMap(async (response) => {
        // The answer's address is another one after a redirection, which not each of Angular's backends tells of.
        const redirected = response.redirected ?? this.#absolute(response.url ?? url) !== this.#absolute(url);
        await this.#answered(pinned, response, course, redirected);
        return response.body as Receipt;
      }),
      catchError(async (error: unknown) => {
        if (error instanceof HttpErrorResponse && error.status !== 0) await this.#answered(pinned, error, course);
        throw error;
      }),
    );
  }

  #absolute(url: string): string {
    return new URL(url, this.#document.baseURI).href;
  }

  async #answered(
    pinned: PinnedKey,
    answer: HttpResponse<unknown> | HttpErrorResponse,
    { inDoubt }: Course,
    redirected = false,
  ) {
    const replayed = isReplay(answer);
    // A storage that fails now must not take the answer with it: a key that is left behind does no harm.
    const about = { replayed, redirected, inDoubt };
    await this.#settings.pending.answered(pinned, answer.status, about).catch(() => undefined);
  }
}
